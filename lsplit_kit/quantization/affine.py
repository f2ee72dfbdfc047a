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


@register("int8")
@register("int4")
class IntMinMax(Codec):
    """Affine INTn between the smallest and the largest value of the whole tensor, as arXiv 2310.14651 quantises noise.

    Eight more bytes cross: the smallest value and the step, fp32. At n bits the error is at most half a step.
    """

    def __init__(self, spec: str) -> None:
        super().__init__(spec)
        self.bits_per_value = int(spec.removeprefix("int"))

    def payload_bytes(self, shape: tuple[int, ...]) -> int:
        """n bits per value, whole bytes, and eight bytes per tensor."""
        return super().payload_bytes(shape) + 8

    def _pack(self, tensor: Tensor) -> bytes:
        values = tensor.to(torch.float64).numpy().ravel()
        low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
        low, step = np.array([low, (high - low) / self._most], "<f4")
        ints = np.zeros(values.size, np.uint8) if step == 0 else np.rint((values - low) / step)
        ints = np.clip(ints, 0, self._most).astype(np.uint8)
        if self.bits_per_value == 4:
            ints = np.append(ints, np.uint8(0)) if ints.size % 2 else ints
            ints = ints[0::2] << 4 | ints[1::2]
        return np.array([low, step], "<f4").tobytes() + ints.tobytes()

    def _unpack(self, payload: bytes, shape: tuple[int, ...]) -> Tensor:
        low, step = np.frombuffer(payload, "<f4", 2).astype(np.float64)
        ints = np.frombuffer(payload, np.uint8, offset=8)
        if self.bits_per_value == 4:
            ints = np.stack([ints >> 4, ints & 15], axis=1).ravel()[: math.prod(shape)]
        with np.errstate(over="ignore", invalid="ignore"):  # what a peer's scales make infinite is refused
            return torch.from_numpy((low + step * ints).astype(np.float32)).reshape(shape)

    @property
    def _most(self) -> int:
        return 2 ** int(self.bits_per_value) - 1
