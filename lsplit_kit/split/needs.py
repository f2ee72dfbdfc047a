"""What a text's step will take in memory, said before it is decoded: six bytes of zeros can claim a hundred gigabytes.

With a codec that counts (`+ans`, `+zstd`) the payload's size says nothing of the tensor's.
"""

from __future__ import annotations

import torch
from torch import nn

from ..errors import LimitExceeded
from ..wire.message import HostInfo, Step
from .blocks import growing_cache
from .together import run

MAX_WORK = 2 << 30  # bytes of one step while it is computed
_AT_WORK = 12  # tensors as wide as the hidden one that a layer makes meanwhile, about


def kept(base: nn.Module, info: HostInfo, policy: str, positions: int) -> int:
    """Bytes that a session of so many positions (all rows together) keeps, about."""
    size = getattr(torch, info.dtype).itemsize
    if policy == "kv":
        return positions * each(base, info.width, size)
    return positions * info.width * size if policy == "hidden" else 0


def each(base: nn.Module, width: int, size: int) -> int:
    """Bytes of keys and values of one position; found out once, by computing one."""
    if "lsplit_each" not in base.__dict__:
        layers: int = len(next(m for m in base.children() if isinstance(m, nn.ModuleList)))
        base.__dict__["lsplit_each"] = measured(base, width) or 2 * layers * width * size
    return base.__dict__["lsplit_each"]


@torch.inference_mode()
def measured(base: nn.Module, width: int) -> int:
    """Bytes of keys and values of one made-up position, 0 where the cache does not say."""
    cache = growing_cache(base.config)  # type: ignore[arg-type]
    try:
        run(base, torch.zeros(1, 1, width, dtype=next(base.parameters()).dtype), cache)
    except Exception:  # then the real step fails as well, and says how
        return 0
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor))


def check_work(info: HostInfo, step: Step, before: int) -> None:
    """Raise LimitExceeded for a step that takes over MAX_WORK to compute; before: positions computed again with it."""
    size, tokens = getattr(torch, info.dtype).itemsize, before + step.tokens
    work = step.batch * tokens * (info.width * size * _AT_WORK + 4 * (step.start + step.tokens) * bool(step.pads))
    if work > MAX_WORK:
        raise LimitExceeded(
            f"{step.batch} x {tokens} positions take about {work >> 20:,} MiB to compute, this host takes "
            f"{MAX_WORK >> 20:,} for one step; send fewer rows or positions at once."
        )
