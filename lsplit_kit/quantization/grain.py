"""Which values share a scale: all, those of a token, of a channel, or of a group of neighbours in a token.

Of a tensor [..., d] a token is one vector of d values. Of a picture's tensor [B, C, h, w] a token is one picture and a
channel one of its C planes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

GRAINS = ("tensor", "token", "channel", "group")


def rows_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """(tokens, values of a token) of a tensor."""
    tokens = math.prod(shape[:-1] if len(shape) < 4 else shape[:1])
    return tokens, math.prod(shape[-1:] if len(shape) < 4 else shape[1:])


class Grain(NamedTuple):
    """How a tensor is cut into parts with a scale each; size counts for groups only."""

    kind: str
    size: int = 0

    def count(self, shape: tuple[int, ...]) -> int:
        """How many scales a tensor has."""
        rows, d = rows_of(shape)
        if self.kind == "channel":
            return math.prod(shape[:2]) if len(shape) >= 4 else d
        return {"tensor": 1, "token": rows, "group": rows * -(-d // max(self.size, 1))}[self.kind]

    def split(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A matrix [scales, values] of a tensor's values; a last, shorter group is filled up with its last value."""
        rows, d = rows_of(shape)
        if self.kind == "channel" and len(shape) < 4:
            return np.ascontiguousarray(values.reshape(rows, d).T)
        if self.kind != "group":
            return values.reshape(self.count(shape), -1)
        missing = -d % self.size
        grid = values.reshape(rows, d)
        grid = np.pad(grid, ((0, 0), (0, missing)), "edge") if missing else grid
        return grid.reshape(-1, self.size)

    def join(self, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The values of `split` in the tensor's own order, [n]."""
        rows, d = rows_of(shape)
        if self.kind == "channel" and len(shape) < 4:
            return matrix.reshape(d, rows).T.ravel()
        if self.kind != "group":
            return matrix.ravel()
        return matrix.reshape(rows, -1)[:, :d].ravel()
