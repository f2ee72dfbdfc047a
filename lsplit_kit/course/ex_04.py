"""Checks for chapter 04, quantization: levels and bytes, and the range that is worth its levels."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import torch
from torch import Tensor

from lsplit_kit.course.calling import number
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.tensors import draw, near, tensor_of

HEAD = struct.Struct("<fB")  # scale, zero point


@exercise(
    "04.1",
    title="From numbers to bytes and back",
    hints=[
        "256 levels have 255 steps between them: scale = (high - low) / 255, with low at most 0 and high at least 0",
        "zero = round(-low / scale); numbers = (values / scale).round() + zero, one byte each as torch.uint8",
        "two roundings can make 256 of a value, and as a byte 256 is 0: clamp(0, 255) before .to(torch.uint8)",
        "numbers of torch.uint8 cannot be negative: in decode take .float() first, then scale * (numbers - zero)",
    ],
    minutes=8,
    difficulty=3,
)
def affine(answer: object) -> str | Wrong | None:
    """(encode, decode): values -> scale, zero point and a byte a value; back with at most half a step of error."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return "a pair of functions was expected: (encode, decode)"
    ties = torch.tensor([[-1.5, 0.0, 7.0, 253.5]])  # both ends lie between two levels
    for values in (draw(1, 3, 40), 3 + 0.01 * draw(2, 2, 30), -draw(3, 4, 5).abs(), ties, torch.zeros(1, 5)):
        try:
            payload = call(answer[0], values.clone())
        except struct.error as error:
            if "format requires" not in str(error):
                raise
            inside = bool(values.min() < 0 < values.max())
            asked = "is its sign right?" if inside else "does the range hold 0?"
            return Wrong(f"the zero point does not fit into a byte, 0 to 255: {asked}", 2 if inside else 1)
        if not isinstance(payload, (bytes, bytearray)):
            return f"encode must return bytes, got {type(payload).__name__}"
        if (fault := _length(len(payload), values.numel())) is not None:
            return fault
        if (fault := _encoded(bytes(payload), values)) is not None:
            return fault
        if (fault := _decoded(answer[1], bytes(payload), tuple(values.shape))) is not None:
            return fault
    return None


def _length(got: int, count: int) -> str | Wrong | None:
    if got == count + HEAD.size:
        return None
    if got in (4 * count, 4 * count + HEAD.size):
        return Wrong(f"{got} bytes for {count} values: each of them takes four", 2)
    missing = ": scale and zero point are not among them" if got == count else ""
    return Wrong(f"{got} bytes for {count} values{missing}; five and one a value were expected", 2)


def _encoded(payload: bytes, values: Tensor) -> str | Wrong | None:
    """What is wrong with the bytes, whoever reads them."""
    scale, zero = HEAD.unpack(payload[: HEAD.size])
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = (high - low) / 255
    if not math.isfinite(scale):
        return "the scale is NaN or infinite; what is it when all values are 0?"
    if step and not math.isclose(scale, step, rel_tol=1e-3):
        if math.isclose(scale, float(values.max() - values.min()) / 255, rel_tol=1e-3):
            return Wrong("the range does not hold 0, so no level stands for it", 1)
        return Wrong("the scale is not the distance of two levels", 1)
    if step and abs(zero + low / step) > 0.51:
        return Wrong(f"level {zero} is not the one that stands for 0", 2)
    numbers = torch.frombuffer(bytearray(payload[HEAD.size :]), dtype=torch.uint8).reshape(values.shape)
    off = float((scale * (numbers.double() - zero) - values.double()).abs().max()) / (step or 1.0)
    if off > 200:
        return Wrong("a number of 256 or more, or below 0, became a byte and with it another level", 3)
    if off > 0.51:
        said = "a whole step off instead of half a one: is it rounded" if off < 1.01 else f"{off:.1f} steps off"
        return Wrong(f"a value's level is {said}{'?' if off < 1.01 else ''}", 2)
    return None


def _decoded(decode: object, payload: bytes, shape: tuple[int, ...]) -> str | Wrong | None:
    """What is wrong with the values that `decode` makes of right bytes."""
    scale, zero = HEAD.unpack(payload[: HEAD.size])
    numbers = torch.frombuffer(bytearray(payload[HEAD.size :]), dtype=torch.uint8).reshape(shape)
    right = scale * (numbers.double() - zero)
    made = tensor_of(call(decode, payload, shape), shape, "what decode returns")
    if isinstance(made, Wrong):
        return made
    off = (made.double() - right).abs()
    if bool((off <= 1e-4 * scale + 1e-6 * right.abs()).all()):
        zeros = made[numbers == zero]
        return Wrong("0 did not come back as exactly 0", 4) if bool((zeros != 0).any()) else None
    turns = off[off > 0.5 * abs(scale)] / (256 * scale)
    if len(turns) and near(turns, turns.round()):
        return Wrong("values below 0 came back far above it: a difference below 0 became a byte", 4)
    return Wrong("decode does not return what the levels stand for", 4)


def _levels(bits: int) -> Callable[[Tensor, float], Tensor]:
    """What comes back of values on 2^bits levels from -limit to limit."""

    def requantise(values: Tensor, limit: float) -> Tensor:
        reach = float(limit)
        step = 2 * reach / (2**bits - 1) if reach else 1.0
        return ((values + reach) / step).round().clamp(0, 2**bits - 1) * step - reach

    return requantise


@exercise(
    "04.2",
    title="Give up the rarest values",
    hints=[
        "try limits up to the largest magnitude, values.abs().max(): torch.linspace(0.1, 1, 60) times it",
        "for each limit: the mean of the squares of requantise(values, limit) - values; the least wins",
        "argmin() gives the place of the least error in your list; the answer is the limit at that place",
    ],
    minutes=4,
    difficulty=2,
)
def clip(answer: object) -> str | Wrong | None:
    """best_limit(values, requantise): the limit of the levels with the least mean squared error."""
    bell, even = draw(4, 1024), torch.linspace(-1, 1, 1001)
    for values, bits in ((bell, 4), (bell, 2), (-bell.abs(), 4), (even, 3), (bell**3, 4)):
        requantise = _levels(bits)
        value = call(answer, values.clone(), requantise)
        limit, most = number(value), float(values.abs().max())
        if limit is None:
            return f"one number, the limit, was expected, got {type(value).__name__}"
        if not math.isfinite(limit):
            return f"the limit is {limit}, which is no place for a level"
        if limit <= 0:
            return Wrong("a limit is above 0: the levels lie from -limit to limit", 1)
        if limit > 1.001 * most:
            return Wrong("the limit is beyond the largest magnitude: no value is out there", 3)
        tried = [(_error(values, requantise, most * k / 400), most * k / 400) for k in range(4, 401)]
        least, best = min(tried)
        if _error(values, requantise, limit) <= 1.05 * least:
            continue
        if limit > 0.999 * most:
            return Wrong("that is the whole range: nothing is clipped, and another limit has a smaller error", 1)
        if limit < best:
            return Wrong(f"with {2**bits} levels too much is clipped: a larger limit has a smaller error", 2)
        return Wrong(f"with {2**bits} levels too little is clipped: a smaller limit has a smaller error", 2)
    return None


def _error(values: Tensor, requantise: Callable[[Tensor, float], Tensor], limit: float) -> float:
    return float((requantise(values, limit) - values).square().mean())
