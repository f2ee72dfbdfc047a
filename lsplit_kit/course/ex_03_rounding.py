"""Checks for chapter 03, continued: INT8 by hand, and lockstep with a rounded noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lsplit_kit.course.calling import NotAttempted, Unfit, blank, number
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.tensors import draw, tensor_of


@exercise(
    "03.3",
    title="INT8 by hand",
    hints=[
        "256 values have 255 steps between them: step = (largest - smallest) / 255",
        "ints = ((values - low) / step).round().to(torch.uint8); when all values are equal, step is 0",
        "from_int8 is low + step * ints",
    ],
    minutes=10,
    difficulty=3,
)
def int8(answer: object) -> str | Wrong | None:
    """(to_int8, from_int8): values -> (ints uint8, low, step), and back; the error is at most half a step."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return "a pair of functions was expected: (to_int8, from_int8)"
    there, back = answer
    for values in (draw(5), 3 + 0.01 * draw(6), torch.tensor([[-2.0, 0.5, 40.0]]), torch.full((1, 5), 0.3)):
        packed = call(there, values.clone())
        if not isinstance(packed, (tuple, list)) or len(packed) != 3:
            return f"to_int8 must return three things (ints, low, step), got {type(packed).__name__}"
        if blank(packed):
            raise NotAttempted
        ints = tensor_of(packed[0], tuple(values.shape), "ints")
        if isinstance(ints, Wrong):
            return ints
        if ints.dtype != torch.uint8:
            return Wrong(f"ints must be torch.uint8, one byte a value; they are {ints.dtype}", 2)
        span = float(values.max() - values.min())
        low, step, span = number(packed[1]), number(packed[2]), float(values.max() - values.min())
        if low is None or step is None:
            return "low and step must be one number each, for the whole tensor"
        if not math.isclose(low, float(values.min()), rel_tol=1e-3, abs_tol=1e-6):
            return Wrong("low is not the smallest value", 1)
        if span and not math.isclose(step, span / 255, rel_tol=1e-3):
            return Wrong("step is not the distance of two of the 256 levels", 1)
        ends = int(ints.min()), int(ints.max())
        if span and ends != (0, 255):
            return Wrong(f"the smallest and the largest value became {ends[0]} and {ends[1]}: not all of 0..255", 1)
        made = tensor_of(call(back, *packed), tuple(values.shape), "what from_int8 returns")
        if isinstance(made, Wrong):
            return made
        if not bool(made.isfinite().all()):
            return Wrong("NaN or infinity came back", 2)
        off = float((made.double() - values.double()).abs().max())
        if off > 0.5 * span / 255 + 1e-5 * float(values.abs().max()):
            close = off < 1.1 * span / 255
            said = (
                "a whole step off instead of half a one: are the numbers rounded?" if close else "more than a step off"
            )
            return Wrong(f"a value came back {said}", 2 if close else 3)
    return None


def _schedulers(steps: int) -> tuple[Any, Any]:
    """Two of the same kind, with a memory of their own, that count their steps."""
    from diffusers import DPMSolverMultistepScheduler

    class Counting(DPMSolverMultistepScheduler):
        taken = 0

        def step(self, *args: Any, **kwargs: Any) -> Any:
            self.taken += 1
            if self.taken > steps:
                raise Unfit("one scheduler stepped more often than there are steps; each side has its own")
            return super().step(*args, **kwargs)

    made = Counting(), Counting()
    for scheduler in made:
        scheduler.set_timesteps(steps)
    return made


def _rounded(noise: Tensor) -> Tensor:
    return (noise * 4).round() / 4


def _guess(latent: Tensor, at: Any) -> Tensor:
    return torch.tanh(latent.flip(-1) * (1 + float(at) / 1000))


@exercise(
    "03.4",
    title="Lockstep",
    hints=[
        "what crossed is all that the local side has; if the host steps with anything else, the two part",
        "each side has a scheduler of its own, and steps it once for every time step",
        "one noise, one crossing a step: keep what wire() returned, and give it to both",
    ],
    minutes=12,
    difficulty=4,
)
def lockstep(answer: object) -> str | Wrong | None:
    """lockstep(denoise, wire, here, there, latent): both sides' latents in the end, and they are equal."""
    steps, start = 6, draw(9)
    crossed: list[Tensor] = []
    seen: list[Tensor] = []

    def wire(noise: Tensor) -> Tensor:
        crossed.append(noise)
        return _rounded(noise)

    def denoise(latent: Tensor, at: Any) -> Tensor:
        seen.append(latent)
        return _guess(latent, at)

    here, there = _schedulers(steps)
    pair = call(answer, denoise, wire, here, there, start.clone())
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        return f"two latents (ours, theirs) were expected, got {type(pair).__name__}"
    both: list[Tensor] = []
    for x in pair:
        latent = tensor_of(x, tuple(start.shape), "a latent")
        if isinstance(latent, Wrong):
            return latent
        both.append(latent)
    ours, theirs = both
    if len(seen) != steps:
        return Wrong(f"the denoiser was asked {len(seen)} times in {steps} steps", 3)
    if len(crossed) != steps:
        return Wrong(f"{len(crossed)} noises crossed in {steps} steps", 3)
    if (here.taken, there.taken) != (steps, steps):
        return Wrong(f"here stepped {here.taken} times and there {there.taken} times in {steps} steps", 2)
    if not torch.equal(ours, theirs):
        apart = float((ours - theirs).abs().max())
        return Wrong(f"in the end the two latents are {apart:.2g} apart", 1)
    right, mine = start.clone(), _schedulers(steps)[0]
    for t in mine.timesteps:
        right = mine.step(_rounded(_guess(right, t)), t, right).prev_sample
    if not torch.equal(ours, right):
        return Wrong("both sides agree, but on another latent than this denoiser and this wire lead to", 1)
    return None
