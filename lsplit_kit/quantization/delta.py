"""Closed-loop prediction: a tensor is written as its difference from what the last ones of the session say it will be.

The noise of a diffusion run changes little from step to step. Both sides predict from the tensors that *crossed*, after
rounding, so they never part; the two weights of the prediction are fitted to each tensor and cross with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import CodecError
from .uniform import Uniform

PAST = 2  # tensors that are remembered
PARTS = 64  # a weight crosses as a whole number of these parts, one signed byte


class Delta(Uniform):
    """The codec of a spec with `+delta`; alone it has no past, so `coder()` makes what a session uses."""

    stateful = True

    def coder(self) -> Delta:
        """A coder without a past, for one tensor of one session."""
        fresh = Delta(self.spec, *self.terms)
        fresh.past = []
        return fresh

    def __init__(self, spec: str, name: str, knob: float, coder: str) -> None:
        super().__init__(spec, name, knob, coder)
        self.terms = (name, knob, coder)
        self.past: list[np.ndarray] | None = None  # what crossed, newest first; None: nothing is remembered

    def length(self, raw: bytes, at: int, shape: tuple[int, ...]) -> int:
        """The weights and what `uniform` says of itself; raises CodecError."""
        if not math.prod(shape):
            return 0
        weights = len(self._known(shape))
        return weights + super().length(raw, at + weights, shape)

    def _pack(self, tensor: Tensor) -> bytes:
        if not tensor.numel():
            return b""
        values, past = tensor.to(torch.float64).numpy().ravel(), self._known(tuple(tensor.shape))
        weights = _fitted(values, past)
        guess = _guess(weights, past, values.size)
        body, steps = self.written(values - guess, *self.step_of(values))
        self._remember(guess + steps, tuple(tensor.shape))
        return weights.tobytes() + body

    def _unpack(self, payload: bytes, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        if not count:
            return torch.empty(shape)
        past = self._known(shape)
        if len(payload) < len(past):
            raise CodecError(f"{self.spec}: the payload ends inside the weights of the prediction.")
        weights = np.frombuffer(payload, np.int8, len(past))
        with np.errstate(over="ignore", invalid="ignore"):
            made = _guess(weights, past, count) + self.read(payload[len(past) :], count)
        if np.isfinite(made).all():  # else the caller refuses it
            self._remember(made, shape)
        return torch.from_numpy(made.astype(np.float32)).reshape(shape)

    def again(self, encoded: object, dtype: torch.dtype) -> Tensor:
        """The tensor just encoded, as the other side has it."""
        assert self.past, "nothing was encoded"
        return torch.from_numpy(self.past[0].copy()).to(dtype)

    @property
    def kept(self) -> int:
        """Bytes of what is remembered."""
        return sum(old.nbytes for old in self.past or [])

    def remembered(self) -> list[Tensor]:
        """What crossed last, float32, newest first."""
        return [torch.from_numpy(old.copy()) for old in self.past or []]

    def resume(self, past: Sequence[Tensor]) -> None:
        """Predict from these float32 tensors; raises CodecError for more than are remembered, or of another kind."""
        if len(past) > PAST or any(old.dtype != torch.float32 or not old.numel() for old in past):
            raise CodecError(f"{self.spec} goes on from at most {PAST} float32 tensors.")
        self.past = [old.numpy().copy() for old in past]

    def _known(self, shape: tuple[int, ...]) -> list[np.ndarray]:
        return [old.ravel() for old in self.past or [] if old.shape == tuple(shape)]

    def _remember(self, values: np.ndarray, shape: tuple[int, ...]) -> None:
        if self.past is not None:
            self.past = [values.astype(np.float32).reshape(shape), *self.past][:PAST]


def _fitted(values: np.ndarray, past: list[np.ndarray]) -> np.ndarray:
    """Weights of the past tensors with the least squared difference, int8 [k] in parts of 1 / 64."""
    if not past:
        return np.zeros(0, np.int8)
    table = np.stack(past, axis=1).astype(np.float64)
    best = np.linalg.lstsq(table, values, rcond=None)[0]
    return np.clip(np.rint(best * PARTS), -128, 127).astype(np.int8)


def _guess(weights: np.ndarray, past: list[np.ndarray], count: int) -> np.ndarray:
    guess = np.zeros(count)
    for weight, old in zip(weights, past, strict=True):
        guess += np.float64(weight) / PARTS * old
    return guess
