"""Checks for chapter 04, continued: bits against error, prediction in a closed loop, guidance after rounding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lsplit_kit.course.calling import number
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.tensors import draw, near, tensor_of

WITHIN = 0.5  # bits above Shannon's line


@exercise(
    "04.5",
    title="Within half a bit of Shannon's line",
    hints=[
        "rounding costs step ** 2 / 12: step = (12 * power / 10 ** (snr / 10)) ** 0.5, power = values.square().mean()",
        "numbers = (values / step).round(): whole numbers, and numbers * step is what comes back",
        "counts = torch.unique(numbers, return_counts=True)[1]; p = counts / counts.sum(); bits: -(p * p.log2()).sum()",
    ],
    minutes=7,
    difficulty=4,
)
def rate(answer: object) -> str | Wrong | None:
    """at_quality(values, snr): (numbers, step, bits), the error snr dB below the values, bits an ideal code's."""
    for values, snr in ((draw(5, 4096), 20.0), (30 * draw(6, 4096), 30.0), (0.1 * draw(7, 4096), 12.0)):
        made = call(answer, values.clone(), snr)
        if not isinstance(made, (tuple, list)) or len(made) != 3:
            return f"three things (numbers, step, bits) were expected, got {type(made).__name__}"
        numbers = tensor_of(made[0], tuple(values.shape), "numbers")
        if isinstance(numbers, Wrong):
            return numbers
        step, bits = number(made[1]), number(made[2])
        if step is None or bits is None or not step > 0:
            return "step and bits must be one number each, and the step above 0"
        if not torch.equal(numbers.double(), numbers.double().round()):
            return Wrong("numbers are whole numbers", 2)
        if (fault := _step(values.double(), numbers.double(), step, snr)) is not None:
            return fault
        if (fault := _bits(values.double(), numbers, step, bits)) is not None:
            return fault
    return None


def _step(values: Tensor, numbers: Tensor, step: float, snr: float) -> Wrong | None:
    if float((values - numbers * step).abs().max()) > 0.501 * step:
        return Wrong("numbers * step is more than half a step from a value", 2)
    power, error = float(values.square().mean()), float((values - numbers * step).square().mean())
    reached = 10 * math.log10(power / error)
    if abs(reached - snr) > 0.5:
        side = "small" if reached < snr else "large"
        return Wrong(f"{snr:g} dB were asked for and {reached:.1f} dB reached: the step is not {side} enough", 1)
    return None


def _bits(values: Tensor, numbers: Tensor, step: float, bits: float) -> Wrong | None:
    counts = torch.unique(numbers, return_counts=True)[1].double()
    shares = counts / counts.sum()
    least = -float((shares * shares.log2()).sum())
    error = float((values - numbers.double() * step).square().mean())
    above = bits - 0.5 * math.log2(float(values.square().mean()) / error)
    if math.isnan(bits):
        return Wrong("bits is NaN: a number that no value has got a share of 0", 3)
    if math.isclose(bits, least, abs_tol=0.005):
        return Wrong(f"that is {above:.2f} bits above Shannon's line", 3) if above > WITHIN else None
    if math.isclose(bits, least * math.log(2), abs_tol=0.005):
        return Wrong("that is counted in nats, by natural logarithms", 3)
    if bits < least:
        return Wrong("no code is as short as that", 3)
    if above > WITHIN:
        return Wrong(f"that is {above:.2f} bits above Shannon's line: a frequent number needs less than a rare one", 3)
    return Wrong("that is not what an ideal code of these numbers needs", 3)


@exercise(
    "04.6",
    title="Close the loop",
    hints=[
        "predict from the receiver's own last tensor, with its rounding; the original does not exist there",
        "each step: arrived = wire(x - last), then last = last + arrived, which is what the receiver has",
        "before the first tensor the receiver has nothing: begin with last = zeros",
    ],
    minutes=4,
    difficulty=3,
)
def loop(answer: object) -> str | Wrong | None:
    """closed_loop(tensors, wire): what the receiver has after each step; wire(difference) returns what arrives."""
    steps, half = 24, 0.125
    start, way = draw(8), draw(9)
    tensors = [start + way * (1 - math.cos(0.1 * k)) for k in range(steps)]
    sent: list[Tensor] = []
    came: list[Tensor] = []

    def wire(difference: Tensor) -> Tensor:
        sent.append(difference)
        came.append((difference / (2 * half)).round() * 2 * half)
        return came[-1].clone()

    made = call(answer, [x.clone() for x in tensors], wire)
    if not isinstance(made, (tuple, list)) or len(made) != steps:
        size = f"{len(made)} of them" if isinstance(made, (tuple, list)) else type(made).__name__
        return f"a list of {steps} tensors, one a step, was expected, got {size}"
    if len(sent) != steps:
        return Wrong(f"{len(sent)} tensors crossed in {steps} steps", 2)
    for x in (*sent, *made):
        fault = tensor_of(x, tuple(start.shape), "each tensor")
        if isinstance(fault, Wrong):
            return fault
    if not near(sent[0], start):
        return Wrong("the first tensor must cross as it is: there is nothing to predict it from", 3)
    if all(near(x, y) for x, y in zip(sent[1:], tensors[1:], strict=True)):
        return Wrong("whole tensors crossed; from the second one on a difference is enough", 2)
    has = torch.stack(came).cumsum(0)
    if not all(near(x, y) for x, y in zip(made, has, strict=True)):
        return Wrong("what you return is not the sum of what arrived, and the receiver has nothing else", 2)
    first, last = (float((made[k] - tensors[k]).abs().max()) / (2 * half) for k in (0, -1))
    if last > 0.51:
        return Wrong(
            f"drift: after the first step the values are up to {first:.2f} rounding steps off, in the end {last:.2f}", 1
        )
    return None


@exercise(
    "04.7",
    title="Round before or after guidance?",
    hints=[
        "write the guided noise as one factor times the guess without the prompt plus another times the one with it",
        "independent errors do not add, their squares do: the root of the sum of the squares of both factors",
    ],
    minutes=3,
    difficulty=2,
)
def guidance(answer: object) -> str | Wrong | None:
    """factor(scale): rms error of the guided noise when both guesses have independent errors of rms 1."""
    for scale in (1.0, 0.0, 3.0, 7.5):
        value = call(answer, scale)
        found = number(value)
        if found is None:
            return f"a number was expected, got {type(value).__name__}"
        right = math.hypot(scale - 1, scale)
        if math.isclose(found, right, rel_tol=1e-3):
            continue
        if math.isclose(found, right**2, rel_tol=1e-3):
            return Wrong(f"at scale {scale:g} that is the error's mean square; its root was asked for", 2)
        if math.isclose(found, abs(scale - 1) + scale, rel_tol=1e-3):
            return Wrong(
                f"at scale {scale:g} that is the worst case, both errors at their largest and in one direction", 2
            )
        if any(math.isclose(found, x, rel_tol=1e-3) for x in (math.hypot(1, scale), math.sqrt(1 + 2 * scale**2))):
            return Wrong(f"at scale {scale:g} the guess without the prompt counts as two errors; it has one", 1)
        return Wrong(f"too {'small' if found < right else 'large'} at scale {scale:g}", 1)
    return None
