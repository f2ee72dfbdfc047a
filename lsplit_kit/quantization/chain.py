"""A codec of parts: stages, a quantiser with its scales, and the numbers of its levels in as few bits as they need."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .grain import Grain
from .levels import Levels, crossed, crossing
from .packing import pack, packed_bytes, unpack
from .registry import Codec
from .stages import Mean, Stage

SHARES = np.linspace(0.96, 0.2, 39)  # of the range that are tried for the least error


class Chain(Codec):
    """Stages -> levels with one scale (or two) for each part of the grain -> packed numbers."""

    def __init__(
        self, spec: str, levels: Levels, grain: Grain, stages: Sequence[Stage] = (), clip: bool = False
    ) -> None:
        super().__init__(spec)
        self.levels, self.grain, self.stages, self.clip = levels, grain, tuple(stages), clip
        self.calibration = next((s.calibration for s in self.stages if isinstance(s, Mean)), None)
        self.short = grain.kind == "group"  # many scales: two bytes each
        self.bits_per_value = levels.bits

    def payload_bytes(self, shape: tuple[int, ...]) -> int:
        """The numbers, the scales, and what the stages send."""
        count = math.prod(shape)
        if not count:
            return 0
        sides = sum(stage.side_bytes(shape) for stage in self.stages)
        return sides + self._scale_bytes(shape) + packed_bytes(count, self.levels.bits)

    def _scale_bytes(self, shape: tuple[int, ...]) -> int:
        return self.grain.count(shape) * self.levels.parameters * (2 if self.short else 4)

    def _pack(self, tensor: Tensor) -> bytes:
        shape = tuple(tensor.shape)
        if not tensor.numel():
            return b""
        values, parts = tensor.to(torch.float32).numpy().ravel(), []
        for stage in self.stages:
            values, side = stage.forward(values, shape)
            parts.append(side)
        matrix = self.grain.split(values, shape)
        scales, raw = crossing(self._fitted(matrix), self.short)
        numbers = self.grain.join(self.levels.to(matrix, scales), shape)
        return b"".join((*parts, raw, pack(numbers, self.levels.bits)))

    def _unpack(self, payload: bytes, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        if not count:
            return torch.empty(shape)
        sides, at = [], 0
        for stage in self.stages:
            size = stage.side_bytes(shape)
            sides.append(payload[at : at + size])
            at += size
        size = self._scale_bytes(shape)
        scales = crossed(payload[at : at + size], self.levels.parameters, self.short)
        numbers = unpack(payload[at + size :], count, self.levels.bits)
        with np.errstate(over="ignore", invalid="ignore"):  # what a peer's scales make infinite is refused
            values = self.grain.join(self.levels.back(self.grain.split(numbers, shape), scales), shape)
            for stage, side in zip(reversed(self.stages), reversed(sides), strict=True):
                values = stage.back(values, side, shape)
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(shape)

    def _fitted(self, matrix: np.ndarray) -> np.ndarray:
        """Scales from the smallest to the largest value, or with `clip` those of the least squared error."""
        widest = self.levels.fit(matrix)
        if not self.clip:
            return widest
        best, least = widest, self._error(matrix, widest)
        for share in SHARES:
            scales = self.levels.narrowed(widest, float(share))
            error = self._error(matrix, scales)
            better = error < least
            best, least = np.where(better[:, None], scales, best), np.where(better, error, least)
        return best

    def _error(self, matrix: np.ndarray, scales: np.ndarray) -> np.ndarray:
        scales = scales.astype(np.float32)
        return np.square(self.levels.back(self.levels.to(matrix, scales), scales) - matrix).sum(axis=1)
