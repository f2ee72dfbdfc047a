"""Transform coding of hidden vectors: `klt:step=0.4+ans`, as pictures and sound have been coded for fifty years.

A calibrated basis makes a vector's coefficients independent of each other (Karhunen-Loeve transform) and weighs them by
what an error costs the model's prediction; one step rounds them all, which is reverse water-filling (Cover & Thomas,
section 10.3.3); a range coder spends on each coefficient what its calibrated curve says. Vectors fall into classes, so
the first token, whose values are up to forty times as large, and the marks of a chat are told apart.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import CodecError
from .calibration import Calibration, calibration, fit_for
from .entropy import MOST_LEVELS, OCTAVE, SHAPES, ZERO, Curve, coder, model_of, read_varint, varint
from .registry import Codec, family
from .spec import Spec

SAVING = math.log(2) / 6  # squared steps of error that a bit may cost: the slope of rate and distortion at high rates
_FARTHEST = 2.0**30


@family("klt")
def _klt(spec: Spec) -> Codec:
    spec.only(("cal", "step"), ("ans",))
    if "step" not in spec.options or spec.stages != {"ans": ""}:
        raise CodecError(f"Unknown codec {spec.text!r}: it is spelled klt:step=0.4+ans, with a step of your choice.")
    step, name = spec.number("step", spec.options["step"], 0.01, 64), spec.options.get("cal")
    return Klt(spec.text, step, None if name is None else calibration(name, spec.given))


class Klt(Codec):
    """Coefficients rounded to whole steps (a multiple of their median spread), range-coded under calibrated curves."""

    fixed = False
    bits_per_value = float("nan")

    def __init__(self, spec: str, step: float, known: Calibration | None) -> None:
        super().__init__(spec)
        self.step, self.calibration = step, known

    @cached_property
    def _curves(self) -> Curves:
        assert self.calibration is not None
        return curves_of(self.calibration, self.step)

    def payload_bytes(self, shape: tuple[int, ...]) -> int:
        """The most it can be: a tensor that the calibration does not fit crosses as fp32."""
        count = math.prod(shape)
        return 4 * count + 8 if count else 0

    def _pack(self, tensor: Tensor) -> bytes:
        if not tensor.numel():
            return b""
        known, plain = fit_for(self.spec, self.calibration, tuple(tensor.shape)), tensor.to(torch.float32).numpy()
        vectors = plain.reshape(-1, known.width)
        with np.errstate(over="ignore", invalid="ignore"):  # values far beyond any calibration cross plain
            coefficients = ((vectors - known.mean) @ known.basis).astype(np.float64)
            classes = _nearest(known, coefficients, self.step)
        steps = (coefficients - known.centres[classes]) / (self.step * known.steps[classes, None])
        body = b""
        if np.abs(steps).max() < _FARTHEST:
            far, words, curves = bytearray(), coder().RangeEncoder(), self._curves
            order, spreads = _sorted(curves.spreads[classes])
            most = curves.most[spreads]
            numbers = _rounded(steps.ravel()[order], curves.offset[spreads] + most, most, curves.costs)
            inside = np.clip(numbers, -most, most).astype(np.int32)
            for first, stop, spread in _runs(spreads):
                words.encode((inside + most)[first:stop].astype(np.int32), curves.models[spread])
            for place in np.flatnonzero(np.abs(inside) == most):
                far += varint(int(abs(numbers[place])) - int(most[place]))
            body = b"\0" + classes.tobytes() + varint(len(far)) + far + words.get_compressed().astype("<u4").tobytes()
        if not 0 < len(body) <= 4 * tensor.numel():
            body = b"\1" + plain.astype("<f4").tobytes()
        return varint(len(body)) + body

    def _unpack(self, payload: bytes, shape: tuple[int, ...]) -> Tensor:
        if not math.prod(shape):
            return torch.empty(shape)
        known, count = fit_for(self.spec, self.calibration, shape), math.prod(shape[:-1])
        size, at = read_varint(payload, 0)
        if size != len(payload) - at or payload[at : at + 1] not in (b"\0", b"\1"):
            raise CodecError(f"{self.spec}: the payload's length or form is not what it says.")
        body = payload[at + 1 :]
        if payload[at]:
            if len(body) != 4 * math.prod(shape):
                raise CodecError(f"{self.spec}: the plain payload does not have the shape's size.")
            return torch.from_numpy(np.frombuffer(body, "<f4").astype(np.float32)).reshape(shape)
        classes = np.frombuffer(body[:count], np.uint8)
        if len(classes) < count or classes.max() >= len(known.spreads):
            raise CodecError(f"{self.spec}: the payload names classes that the calibration does not have.")
        found = self._decoded(known, classes, body[count:])
        with np.errstate(over="ignore", invalid="ignore"):  # what a peer makes infinite is refused
            vectors = (found.astype(np.float32) @ known.back) + known.mean
        return torch.from_numpy(vectors).reshape(shape)

    def _decoded(self, known: Calibration, classes: np.ndarray, raw: bytes) -> np.ndarray:
        size, at = read_varint(raw, 0)
        far, raw = raw[at : at + size], raw[at + size :]
        if len(far) < size or len(raw) % 4:
            raise CodecError(f"{self.spec}: the payload ends inside its numbers.")
        words, curves, at = coder().RangeDecoder(np.frombuffer(raw, "<u4").astype(np.uint32)), self._curves, 0
        order, spreads = _sorted(curves.spreads[classes])
        most, inside = curves.most[spreads], np.empty(len(order), np.int64)
        try:
            for first, stop, spread in _runs(spreads):
                inside[first:stop] = words.decode(curves.models[spread], stop - first)
        except BaseException as error:  # the library's panics are no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise CodecError("The range-coded numbers are not readable.") from None
        found = curves.means[curves.offset[spreads] + inside]
        for place in np.flatnonzero((inside == 0) | (inside == 2 * most)):
            more, at = read_varint(far, at)
            found[place] = (more + most[place]) * (1 if inside[place] else -1)
        values = np.empty(len(order))
        values[order] = found
        if at != size:
            raise CodecError(f"{self.spec}: the payload has numbers that no coefficient needs.")
        return values.reshape(len(classes), -1) * (self.step * known.steps[classes, None]) + known.centres[classes]


def _nearest(known: Calibration, coefficients: np.ndarray, step: float) -> np.ndarray:
    """The likeliest class [n], uint8, of each vector, as if its curves were Gauss's."""
    spread = np.square(2.0 ** ((known.spreads.astype(np.float64) - ZERO) / OCTAVE)) + step * step / 12
    own = (np.square(known.centres) / spread + np.log(spread)).sum(axis=1)
    apart = np.square(coefficients) @ (1 / spread).T - 2 * coefficients @ (known.centres / spread).T
    return (apart + own).argmin(axis=1).astype(np.uint8)


class Curves(NamedTuple):
    """The curves of a calibration at a step: spreads [C, d], and for each spread its place in tables of numbers."""

    spreads: np.ndarray
    most: np.ndarray  # [256], the number that stands for all beyond
    offset: np.ndarray  # [256], the place of -most in the tables
    costs: np.ndarray  # of each number, in squared steps
    means: np.ndarray  # of what each number stands for, in steps
    models: dict[int, Any]


def curves_of(known: Calibration, step: float) -> Curves:
    """The curves that both sides code with: a wider step makes every one narrower."""
    narrower = np.rint(OCTAVE * np.log2(step * known.steps)).astype(np.int32)
    spreads = np.clip(known.spreads - narrower[:, None], 0, 255).astype(np.uint8)
    most, offset, costs, means, models = np.zeros(256, np.int64), np.zeros(256, np.int64), [], [], {}
    at = 0
    for spread in np.unique(spreads).tolist():
        curve = _curve(spread, known.shape)
        model, chances, mean = model_of(curve)
        most[spread], offset[spread], models[spread] = -curve.low, at, model
        costs.append(-np.log2(chances) * SAVING)
        means.append(mean)
        at += curve.levels
    return Curves(spreads, most, offset, np.concatenate(costs), np.concatenate(means), models)


def _sorted(spreads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places among all coefficients, their spreads): those with the same spread are coded one after the other."""
    flat = spreads.ravel()
    order = np.argsort(flat, kind="stable")
    return order, flat[order]


def _runs(spreads: np.ndarray) -> list[tuple[int, int, int]]:
    """(first, stop, spread) of each run of equal spreads."""
    edges = [0, *(np.flatnonzero(np.diff(spreads)) + 1).tolist(), len(spreads)]
    return [(a, b, int(spreads[a])) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def _curve(spread: int, shape: int) -> Curve:
    """Numbers to a few spreads from zero; the outermost ones stand for all beyond."""
    far = 6 if SHAPES[shape] >= 2 else 9
    most = min(math.ceil(far * 2 ** ((spread - ZERO) / OCTAVE)) + 1, MOST_LEVELS // 2 - 1)
    return Curve(-most, 2 * most + 1, 0, spread, shape)


def _rounded(steps: np.ndarray, zero: np.ndarray, most: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Whole steps: of the two neighbours the one whose error and bits together cost less; zero: place of 0 in costs."""
    near = np.rint(steps)
    other = near - np.sign(near) * (np.abs(near) > np.abs(steps))  # the neighbour on zero's side, if it is one
    ours, theirs = (
        np.square(steps - n) + costs[np.clip(n, -most, most).astype(np.int64) + zero] for n in (near, other)
    )
    return np.where(theirs < ours, other, near)
