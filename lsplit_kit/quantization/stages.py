"""What is done to a tensor's values before they are quantised, and undone after: outliers apart, a rotation."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np

from ..errors import NonFiniteError
from .calibration import Calibration, fit_for
from .grain import rows_of

Shape = tuple[int, ...]


class Stage(Protocol):
    """forward(values [n], shape) -> (values, bytes that cross beside them); back(values, bytes, shape) -> values."""

    def side_bytes(self, shape: Shape) -> int: ...
    def forward(self, values: np.ndarray, shape: Shape) -> tuple[np.ndarray, bytes]: ...
    def back(self, values: np.ndarray, side: bytes, shape: Shape) -> np.ndarray: ...


class Mean:
    """A calibrated mean of every channel is taken away and given back: outlier channels are mostly mean."""

    def __init__(self, spec: str, known: Calibration | None) -> None:
        self.spec, self.calibration = spec, known

    def side_bytes(self, shape: Shape) -> int:
        """Nothing crosses: both sides have the calibration."""
        return 0

    def forward(self, values: np.ndarray, shape: Shape) -> tuple[np.ndarray, bytes]:
        """The values less their channel's mean."""
        return (values.reshape(-1, shape[-1]) - self._mean(shape)).ravel(), b""

    def back(self, values: np.ndarray, side: bytes, shape: Shape) -> np.ndarray:
        """The values and their channel's mean."""
        return (values.reshape(-1, shape[-1]) + self._mean(shape)).ravel()

    def _mean(self, shape: Shape) -> np.ndarray:
        return fit_for(self.spec, self.calibration, shape).mean


class Outliers:
    """The k largest magnitudes of every token cross apart, as fp16 with their places, and leave zeros behind.

    LLM.int8 (arXiv 2208.07339) keeps whole channels apart; a token's own largest values need no calibration.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def _count(self, shape: Shape) -> tuple[int, int, int]:
        rows, d = rows_of(shape)
        return rows, d, min(self.k, d)

    def side_bytes(self, shape: Shape) -> int:
        """Four bytes a kept value: fp16 and a place."""
        rows, d, k = self._count(shape)
        return rows * k * (4 if d <= 1 << 16 else 6)

    def forward(self, values: np.ndarray, shape: Shape) -> tuple[np.ndarray, bytes]:
        """The values with their outliers set to zero."""
        rows, d, k = self._count(shape)
        grid = values.reshape(rows, d).copy()
        size = np.abs(grid)
        large = size >= np.partition(size, d - k, axis=1)[:, d - k, None]  # faster than places at once
        if np.count_nonzero(large) == rows * k:
            places = large.nonzero()[1].reshape(rows, k)
        else:  # several of the same size
            places = np.argpartition(size, d - k, axis=1)[:, d - k :]
        with np.errstate(over="ignore"):
            kept = grid[_column(rows), places].astype("<f2")
        if not np.isfinite(kept).all():
            raise NonFiniteError("outliers: a value is beyond 65504, which fp16 cannot hold; use another codec.")
        grid[_column(rows), places] = 0
        return grid.ravel(), kept.tobytes() + places.astype("<u2" if d <= 1 << 16 else "<u4").tobytes()

    def back(self, values: np.ndarray, side: bytes, shape: Shape) -> np.ndarray:
        """The values with their outliers in place; a place beyond the token wraps into it."""
        rows, d, k = self._count(shape)
        cut = 2 * rows * k
        kept = np.frombuffer(side[:cut], "<f2").reshape(rows, k).astype(np.float32)
        places = np.frombuffer(side[cut:], "<u2" if d <= 1 << 16 else "<u4").reshape(rows, k).astype(np.int64) % max(
            d, 1
        )
        grid = values.reshape(rows, d).copy()
        grid[_column(rows), places] = kept
        return grid.ravel()


@lru_cache(maxsize=64)
def _column(rows: int) -> np.ndarray:
    return np.arange(rows)[:, None]


@lru_cache(maxsize=16)
def _matrix(size: int) -> np.ndarray:
    from scipy.linalg import hadamard

    return (hadamard(size) / np.sqrt(size)).astype(np.float32)


class Hadamard:
    """Blocks of a token's values are rotated by a Hadamard matrix, which spreads an outlier over its block.

    QuaRot (arXiv 2404.00456) rotates the model; here the tensor is rotated, and back, around its quantiser. The values
    after the last whole block stay as they are.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def side_bytes(self, shape: Shape) -> int:
        """Nothing crosses: both sides know the matrix."""
        return 0

    def forward(self, values: np.ndarray, shape: Shape) -> tuple[np.ndarray, bytes]:
        """The rotated values."""
        rows, d = rows_of(shape)
        whole = d // self.size * self.size
        if not whole:
            return values, b""
        grid = values.reshape(rows, d)
        turned = (grid[:, :whole].reshape(-1, self.size) @ _matrix(self.size)).reshape(rows, whole)
        return (turned if whole == d else np.concatenate([turned, grid[:, whole:]], 1)).ravel(), b""

    def back(self, values: np.ndarray, side: bytes, shape: Shape) -> np.ndarray:
        """The values rotated back: the matrix is its own inverse."""
        return self.forward(values, shape)[0]
