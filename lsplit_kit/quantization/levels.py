"""From values to the numbers of levels and back, one scale for each row of a matrix.

Scales cross too: as fp32, or, where there are many (groups), as bf16, rounded so that no value is clipped.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

SMALLEST = np.float32(2.0**-126)  # a step below this underflows in the division; such rows are sent as their mean


class Levels(Protocol):
    """A quantiser: fit(matrix [k, m]) -> scales [k, p]; to(matrix, scales) -> uint8 [k, m]; back(numbers, scales)."""

    bits: int
    parameters: int  # scales of a row

    def fit(self, matrix: np.ndarray) -> np.ndarray: ...
    def narrowed(self, scales: np.ndarray, share: float) -> np.ndarray: ...
    def to(self, matrix: np.ndarray, scales: np.ndarray) -> np.ndarray: ...
    def back(self, numbers: np.ndarray, scales: np.ndarray) -> np.ndarray: ...


class Symmetric:
    """2^n - 1 levels around zero; at one bit two, plus and minus the mean magnitude (the step of least error)."""

    parameters = 1

    def __init__(self, bits: int) -> None:
        self.bits, self.most = bits, 2 ** (bits - 1) - 1

    def fit(self, matrix: np.ndarray) -> np.ndarray:
        """The step of each row [k, 1]: its peak on the outermost level."""
        size = np.abs(matrix)
        if self.bits == 1:
            return size.mean(axis=1, keepdims=True, dtype=np.float64)
        return size.max(axis=1, keepdims=True).astype(np.float64) / self.most

    def narrowed(self, scales: np.ndarray, share: float) -> np.ndarray:
        """The scales whose outermost level is at `share` of where it was."""
        return scales * share

    def to(self, matrix: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The number of the nearest level."""
        if self.bits == 1:
            return (matrix >= 0).astype(np.uint8)
        step = np.where(scales >= SMALLEST, scales, np.float32(np.inf))
        found = np.rint(matrix / step)
        np.clip(found, -self.most, self.most, out=found)
        return (found + self.most).astype(np.uint8)

    def back(self, numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The values of levels."""
        offset = np.float32(0.5 if self.bits == 1 else self.most)
        return (numbers - offset) * (2 * scales if self.bits == 1 else scales)


class Affine:
    """2^n levels from a row's smallest to its largest value."""

    parameters = 2

    def __init__(self, bits: int) -> None:
        self.bits, self.most = bits, 2**bits - 1

    def fit(self, matrix: np.ndarray) -> np.ndarray:
        """Lowest level and step of each row [k, 2]."""
        low, high = matrix.min(axis=1).astype(np.float64), matrix.max(axis=1).astype(np.float64)
        return np.stack([low, (high - low) / self.most], axis=1)

    def narrowed(self, scales: np.ndarray, share: float) -> np.ndarray:
        """The scales of a range of `share` of its width, with the same middle."""
        low, step = scales.T
        return np.stack([low + (1 - share) / 2 * self.most * step, step * share], axis=1)

    def to(self, matrix: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The number of the nearest level."""
        low, step = scales[:, :1], scales[:, 1:]
        found = np.rint((matrix - low) / np.where(step >= SMALLEST, step, np.float32(np.inf)))
        return np.clip(found, 0, self.most, out=found).astype(np.uint8)

    def back(self, numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The values of levels."""
        return scales[:, :1] + numbers * scales[:, 1:]


def crossing(scales: np.ndarray, short: bool) -> tuple[np.ndarray, bytes]:
    """(the scales as both sides will use them, float32 [k, p]; their bytes)."""
    exact = scales.astype("<f4")
    if not short:
        return exact, exact.tobytes()
    bits = exact.view("<u4").copy()
    up = np.ones(exact.shape, bool)  # away from zero
    if scales.shape[1] == 2:  # a lowest level goes down, its step up
        up[:, 0] = np.signbit(exact[:, 0])
    bits = np.where(up, bits + np.uint32(0xFFFF), bits) & np.uint32(0xFFFF0000)
    return bits.view("<f4"), (bits >> np.uint32(16)).astype("<u2").tobytes()


def crossed(raw: bytes, parameters: int, short: bool) -> np.ndarray:
    """The scales [k, p] from the bytes of `crossing`."""
    if not short:
        return np.frombuffer(raw, "<f4").reshape(-1, parameters)
    return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").reshape(-1, parameters)
