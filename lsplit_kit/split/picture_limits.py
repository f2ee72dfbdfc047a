"""How large one call of a denoiser may be: said before anything is computed, because a few bytes can ask for hours.

A tensor of which only the shape is sent costs nothing to send, and attention costs the square of its positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..errors import FrameError, LimitExceeded

MOST_ROWS = 64  # pictures in one call, both halves of the guidance pair counted
MOST_POSITIONS = 1 << 17  # latent pixels, or tokens of packed latents, of all rows together
MOST_VALUES = 1 << 22  # of any one argument
_OWN_ROWS = ("_ids", "_meta_size", "rotary_emb")  # arguments whose first dimension is not the batch


def check_call(call: dict[str, Any], streams: dict[str, Tensor]) -> None:
    """Raise FrameError or LimitExceeded unless the call's tensors fit its sample [B, C, h, w] or [B, L, C]."""
    name = next((n for n in ("sample", "hidden_states") if n in call), "")
    sample = call.get(name)
    if not isinstance(sample, Tensor) or sample.dim() < 3:
        raise FrameError("A denoiser's first argument is a tensor of latents.")
    rows, positions = len(sample), math.prod(sample.shape[2:] if sample.dim() > 3 else sample.shape[1:2])
    if rows > MOST_ROWS or rows * positions > MOST_POSITIONS:
        raise LimitExceeded(
            f"A call has at most {MOST_ROWS} rows and {MOST_POSITIONS:,} latent pixels, not {rows} x {positions:,}."
        )
    for where, tensor in (*_tensors("", call), *_tensors("", streams)):
        if tensor.dim() and not tensor.numel():
            raise FrameError(f"{where} is empty.")
        if tensor.numel() > MOST_VALUES:
            raise LimitExceeded(f"{where} has {tensor.numel():,} values; an argument has at most {MOST_VALUES:,}.")
        if tensor.dim() and len(tensor) not in (1, rows) and not where.rstrip(".0123456789").endswith(_OWN_ROWS):
            raise FrameError(f"{where} has {len(tensor):,} rows, the latents have {rows}.")


def _tensors(where: str, part: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(part, Tensor):
        yield where, part
    elif isinstance(part, dict):
        for name, inner in part.items():
            yield from _tensors(f"{where}.{name}" if where else str(name), inner)
    elif isinstance(part, (list, tuple)):
        for number, inner in enumerate(part):
            yield from _tensors(f"{where}.{number}", inner)
