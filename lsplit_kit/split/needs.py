"""What a text's step will take in memory, said before it is decoded: six bytes of zeros can claim a hundred gigabytes.

With a codec that counts (`+ans`, `+zstd`) the payload's size says nothing of the tensor's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import LimitExceeded
from ..wire.message import HostInfo, Step

MAX_WORK = 2 << 30  # bytes of one step while it is computed
_AT_WORK = 12  # tensors as wide as the hidden one that a layer makes meanwhile, about


def kept(base: nn.Module, info: HostInfo, policy: str, positions: int) -> int:
    """Bytes that a session of so many positions (all rows together) keeps, about."""
    size = getattr(torch, info.dtype).itemsize
    if policy == "kv":
        return positions * each(base) * size
    return positions * info.width * size if policy == "hidden" else 0


def each(base: nn.Module) -> int:
    """Numbers that one position adds to the keys and values of all layers, as the model's configuration has it."""
    config: Any = base.config
    layers = len(next(m for m in base.children() if isinstance(m, nn.ModuleList)))
    heads = getattr(config, "num_attention_heads", None) or 1
    wide = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * layers * wide * (getattr(config, "num_key_value_heads", None) or heads)


def check_work(info: HostInfo, step: Step, before: int) -> None:
    """Raise LimitExceeded for a step that takes over MAX_WORK to compute; before: positions computed again with it."""
    size, tokens = getattr(torch, info.dtype).itemsize, before + step.tokens
    work = step.batch * tokens * (info.width * size * _AT_WORK + 4 * (step.start + step.tokens) * bool(step.pads))
    if work > MAX_WORK:
        raise LimitExceeded(
            f"{step.batch} x {tokens} positions take about {work >> 20:,} MiB to compute, this host takes "
            f"{MAX_WORK >> 20:,} for one step; send fewer rows or positions at once."
        )
