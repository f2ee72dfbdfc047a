"""What a text's step will take in memory, said before it is decoded: six bytes of zeros can claim a hundred gigabytes.

With a codec that counts (`+ans`, `+zstd`) the payload's size says nothing of the tensor's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import LimitExceeded
from ..wire.message import HostInfo, Step
from .blocks import BLOCK, growing_cache

MAX_WORK = 4 << 30  # bytes of one step while it is computed: a bound, the real ones are about half of it
_SCORES = 5  # float32 for each head and pair of positions, where attention writes its scores down
_MASK = 16  # bytes for each pair of positions of a row, while a mask is made of several


def kept(base: nn.Module, info: HostInfo, policy: str, batch: int, start: int, new: int) -> int:
    """Bytes that a session keeps after [batch, new] positions behind `start` others, and never more.

    Keys and values have room for whole blocks. A layer with a window holds on to what it saw in the last step.
    """
    size = getattr(torch, info.dtype).itemsize
    if policy == "kv":
        whole = -(-(start + new) // BLOCK) * BLOCK
        places = sum(whole if window is None else min(start, window - 1) + new for window in _windows(base))
        return batch * places * (each(base) // len(_layers(base))) * size
    return batch * (start + new) * info.width * size if policy == "hidden" else 0


def each(base: nn.Module) -> int:
    """Numbers that one position adds to the keys and values of all layers, as the model's configuration has it."""
    config: Any = base.config
    heads, wide = _heads(base)
    kept = getattr(config, "num_key_value_heads", None) or heads
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        kept = 1  # newer Falcons copy keys and values for every head before they keep them
    return 2 * len(_layers(base)) * wide * kept


def working(base: nn.Module, info: HostInfo, batch: int, new: int, past: int = 0, masked: bool = False) -> int:
    """Bytes that [batch, new] positions after `past` others take at most while they are computed, their own kept too.

    As if a layer let nothing go: each of its matrices makes a row as long as its longer side, twice (a copy, an
    activation). Keys and values are copied a layer at a time, for a longer cache and for every head. Attention that
    does not write its scores down makes a mask of pairs where something is `masked`, a window slides, or the family
    makes one always.
    """
    size, (heads, wide), (rows, experts) = getattr(torch, info.dtype).itemsize, _heads(base), _rows(base)
    config: Any = base.config
    seen = past + new
    position = 2 * rows + 2 * info.width + each(base)
    layer = each(base) // len(_layers(base)) + 4 * heads * wide
    eager = config._attn_implementation == "eager"
    window = getattr(config, "sliding_window", None) is not None or not getattr(base, "_supports_attention_backend", 0)
    mask = eager or masked or window or past > 0
    pair = _MASK * mask + 4 * heads * _SCORES * eager
    numbers = new * position + BLOCK * each(base) + (seen + BLOCK) * layer
    return batch * (size * numbers + new * seen * pair) + size * experts


def _layers(base: nn.Module) -> nn.ModuleList:
    return next(m for m in base.children() if isinstance(m, nn.ModuleList))


def _windows(base: nn.Module) -> list[int | None]:
    """How many positions each layer's attention looks back at, itself included; None: all."""
    if "lsplit_windows" not in base.__dict__:
        config: Any = base.config
        found = [getattr(layer, "sliding_window", None) for layer in growing_cache(config).layers]
        base.__dict__["lsplit_windows"] = found or [None] * len(_layers(base))
    return base.__dict__["lsplit_windows"]


def _heads(base: nn.Module) -> tuple[int, int]:
    """Heads of attention, and how wide each is."""
    config: Any = base.config
    heads = getattr(config, "num_attention_heads", None) or 1
    return heads, getattr(config, "head_dim", None) or config.hidden_size // heads


def _rows(base: nn.Module) -> tuple[int, int]:
    """(numbers that the matrices of a layer make of one position, numbers of its experts, which may be copied)."""
    if "lsplit_rows" not in base.__dict__:  # the widest layer's, looked up once
        chosen = getattr(base.config, "num_experts_per_tok", None) or 1
        found = [(0, 0)]
        for layer in _layers(base):
            shapes = [p.shape for p in layer.parameters()]
            made = sum(max(shape[-2:]) * (chosen if len(shape) == 3 else 1) for shape in shapes if len(shape) > 1)
            found.append((made, sum(shape.numel() for shape in shapes if len(shape) == 3)))
        base.__dict__["lsplit_rows"] = (max(made for made, _ in found), max(copied for _, copied in found))
    return base.__dict__["lsplit_rows"]


def check_work(base: nn.Module, info: HostInfo, step: Step, again: bool) -> None:
    """Raise LimitExceeded for a step that takes over MAX_WORK to compute; again: with all positions before it."""
    tokens, past = (step.start + step.tokens, 0) if again else (step.tokens, step.start)
    work = working(base, info, step.batch, tokens, past, bool(step.pads or step.positions or step.start))
    if work > MAX_WORK:
        raise LimitExceeded(
            f"{step.batch} x {tokens} positions take up to {work >> 20:,} MiB to compute, this host takes "
            f"{MAX_WORK >> 20:,} for one step; send fewer rows or positions at once."
        )
