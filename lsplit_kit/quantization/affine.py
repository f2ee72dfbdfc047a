"""Integer codecs with a scale. Here: INT8 with one scale per token (arXiv 2310.14651 quantises to INT8 per tensor)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .registry import Codec, register


@register("int8:token")
class Int8Token(Codec):
    """Symmetric INT8, one fp32 scale max|x|/127 per token (row of d values); the scales cross and are counted."""

    bits_per_value = 8

    def payload_bytes(self, shape: tuple[int, ...]) -> int:
        """One byte per value and four per token."""
        return math.prod(shape) + 4 * math.prod(shape[:-1])

    def _pack(self, tensor: Tensor) -> bytes:
        rows = tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1]).to(torch.float32).numpy()
        peak = np.abs(rows).max(axis=1, initial=0.0)
        scale = (peak / np.float32(127)).astype("<f4")
        # Subnormal peaks underflow to scale 0: such a row is sent as zeros, an error below the smallest normal number.
        safe = np.where(scale > 0, scale, np.float32(1))
        ints = np.rint(np.clip(rows / safe[:, None], -127, 127)).astype(np.int8)
        return scale.tobytes() + ints.tobytes()

    def _unpack(self, payload: bytes, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape[:-1])
        scale = np.frombuffer(payload, "<f4", count)
        ints = np.frombuffer(payload, np.int8, offset=4 * count).reshape(count, shape[-1])
        return torch.from_numpy(ints.astype(np.float32) * scale[:, None].astype(np.float32)).reshape(shape)
