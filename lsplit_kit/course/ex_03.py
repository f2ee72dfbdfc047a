"""Checks for chapter 03, diffusion and what crosses."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lsplit_kit.course.calling import NotAttempted, blank, number, whole
from lsplit_kit.course.checks import Wrong, call, exercise

SHAPE = (1, 4, 8, 8)  # of the latents that the checks make up


def _draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


def _tensor(value: object, shape: tuple[int, ...], what: str) -> Tensor | Wrong:
    """A learner's tensor, or what is wrong with its kind or shape."""
    if not isinstance(value, Tensor):
        return Wrong(f"{what} must be a tensor, got {type(value).__name__}")
    if tuple(value.shape) != shape:
        return Wrong(f"{what} has the shape {tuple(value.shape)}, a tensor of shape {shape} was expected", 1)
    return value


def _near(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5))


@exercise(
    "03.1",
    title="Guidance by hand",
    hints=[
        "noise.chunk(2) gives the two halves; the first is the one without the prompt",
        "begin at the guess without the prompt and walk scale times the way to the guess with it",
    ],
    minutes=5,
)
def guidance(answer: object) -> str | Wrong | None:
    """guide(noise [2B, C, h, w], scale): without + scale * (with - without), [B, C, h, w]."""
    for rows, scale in ((1, 1.0), (1, 0.0), (2, 1.0), (2, 7.5)):
        noise = _draw(rows, 2 * rows, *SHAPE[1:])
        without, asked = noise[:rows], noise[rows:]
        got = _tensor(call(answer, noise.clone(), scale), tuple(without.shape), "the guided noise")
        if isinstance(got, Wrong):
            return got
        right = without + scale * (asked - without)
        if _near(got, right):
            continue
        if scale == 0:
            return Wrong("at scale 0 the guided noise must be the guess without the prompt", 2)
        if _near(got, asked + scale * (without - asked)):
            return Wrong("the two halves are exchanged", 1)
        if scale == 1:
            return Wrong("at scale 1 the guided noise must be the guess with the prompt", 2)
        return Wrong(f"at scale {scale} the values are not those of the formula", 2)
    return None


@exercise(
    "03.2",
    title="How many latents go up?",
    hints=[
        "a guided pipeline gives its denoiser the same latent twice; what is equal need not cross twice",
        "in lockstep the host has the latent of the step before, and the noise that it sent down",
    ],
    minutes=4,
    difficulty=2,
)
def latents_up(answer: object) -> str | Wrong | None:
    """latents_up(mode, steps, guided): how many latents cross up while one picture is made."""
    for mode, steps, guided in (("per_step", 20, False), ("per_step", 20, True), ("lockstep", 20, True),
                                ("lockstep", 1, False), ("per_step", 1, True)):  # fmt: skip
        value = call(answer, mode, steps, guided)
        count, right = whole(value), steps if mode == "per_step" else 1
        if count is None:
            return f"a whole number was expected, got {type(value).__name__}"
        if count != right:
            asked = f"{mode}, {steps} step{'s' if steps > 1 else ''}, {'guided' if guided else 'not guided'}"
            doubled = guided and count == 2 * right
            return Wrong(f"{'fewer' if count < right else 'more'} than cross for {asked}", 1 if doubled else 2)
    return None


@exercise(
    "03.3",
    title="INT8 by hand",
    hints=[
        "256 values have 255 steps between them: step = (largest - smallest) / 255",
        "ints = ((values - low) / step).round().to(torch.uint8); when all values are equal, step is 0",
        "ints are uint8: make floats of them before you multiply",
    ],
    minutes=10,
    difficulty=3,
)
def int8(answer: object) -> str | Wrong | None:
    """(to_int8, from_int8): values -> (ints uint8, low, step), and back; the error is at most half a step."""
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        return "a pair of functions was expected: (to_int8, from_int8)"
    there, back = answer
    for values in (_draw(5), 3 + 0.01 * _draw(6), torch.tensor([[-2.0, 0.5, 40.0]]), torch.full((1, 5), 0.3)):
        packed = call(there, values.clone())
        if not isinstance(packed, (tuple, list)) or len(packed) != 3:
            return f"to_int8 must return three things (ints, low, step), got {type(packed).__name__}"
        if blank(packed):
            raise NotAttempted
        ints = _tensor(packed[0], tuple(values.shape), "ints")
        if isinstance(ints, Wrong):
            return ints
        if ints.dtype != torch.uint8:
            return Wrong(f"ints must be torch.uint8, one byte a value; they are {ints.dtype}", 2)
        span = float(values.max() - values.min())
        ends = int(ints.min()), int(ints.max())
        if span and ends != (0, 255):
            return Wrong(f"the smallest and the largest value became {ends[0]} and {ends[1]}: not all of 0..255", 1)
        made = _tensor(call(back, *packed), tuple(values.shape), "what from_int8 returns")
        if isinstance(made, Wrong):
            return made
        if not bool(made.isfinite().all()):
            return Wrong(f"{'' if span else 'values that are all equal came back as '}NaN or infinity", 2)
        worst = float((made.double() - values.double()).abs().max())
        if worst > 0.5 * span / 255 + 1e-5 * float(values.abs().max()):
            return Wrong(f"a value came back {worst * 255 / span if span else worst:.2g} steps off", 3 if span else 2)
    return None


def _schedulers(steps: int) -> tuple[Any, Any]:
    """Two of the same kind, with a memory of their own, that count their steps."""
    from diffusers import DPMSolverMultistepScheduler

    class Counting(DPMSolverMultistepScheduler):
        taken = 0

        def step(self, *args: Any, **kwargs: Any) -> Any:
            self.taken += 1
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
    steps, start = 6, _draw(9)
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
        latent = _tensor(x, tuple(start.shape), "a latent")
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


@exercise(
    "03.5",
    title="Why 75 % is the downlink",
    hints=[
        "75 % is what a value of one byte saves against one of four; what went up once is not made smaller",
        "each INT8 tensor brings 8 more bytes: its smallest value and its step",
        "one share of everything: 1 - (all bytes with INT8) / (all bytes with FP32)",
    ],
    minutes=6,
    difficulty=2,
)
def saving(answer: object) -> str | Wrong | None:
    """saving(up, steps, values): the share of all payload bytes that INT8 noise saves against FP32 noise."""
    for up, steps, values in ((0, 1, 1024), (4096, 20, 1024), (500_000, 20, 16_384), (28_000, 4, 1024)):
        value = call(answer, up, steps, values)
        share = number(value)
        if share is None:
            return f"a number was expected, got {type(value).__name__}"
        full = up + 4 * values * steps
        right = 1 - (up + (values + 8) * steps) / full
        if math.isclose(share, right, abs_tol=1e-9):
            continue
        asked = f"{up:,} bytes up once, {steps} step{'s' if steps > 1 else ''} of {values:,} values"
        if math.isclose(share, 100 * right, rel_tol=1e-6):
            return Wrong("a share from 0 to 1 was expected, not per cent", 3)
        if math.isclose(share, 1 - (up + values * steps) / full, abs_tol=1e-9):
            return Wrong(f"a little too much for {asked}: INT8 values alone do not say what they stand for", 2)
        if math.isclose(share, 0.75, abs_tol=2e-3) and up:
            return Wrong(f"that is the downlink's saving, and {up:,} bytes went up", 1)
        return Wrong(f"{'less' if share < right else 'more'} than is saved for {asked}", 3)
    return None


@exercise(
    "03.6",
    title="What crosses inside the U-Net",
    hints=[
        "after k down blocks each side of the picture was halved k times; conv_in halves nothing",
        "what goes up has the channels of the last local down block; for k = 0 those of conv_in, channels[0]",
        "what comes down is made by up block k from the end, which has the channels of down block k",
    ],
    minutes=8,
    difficulty=3,
)
def inside(answer: object) -> str | Wrong | None:
    """crossing(k, channels, side): values (up, down) of one row when k blocks stay local at either end."""
    for channels, side in (((128, 160, 160), 8), ((320, 640, 1280, 1280), 64)):
        for k in range(len(channels)):
            value = call(answer, k, channels, side)
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                return f"a pair (up, down) was expected, got {type(value).__name__}"
            got = [whole(x) for x in value]
            right = channels[max(k - 1, 0)] * (side >> k) ** 2, channels[k] * (side >> k) ** 2
            for name, count, wanted, hint in zip(("up", "down"), got, right, (2, 3), strict=True):
                if count is None:
                    return f"two whole numbers were expected, got {value}"
                if count != wanted:
                    more = "too many" if count > wanted else "too few"
                    asked = f"{name} for k={k}, channels {channels}, side {side}"
                    return Wrong(f"{more} values {asked}", 1 if wanted * 4**k == count and k else hint)
    return None


@exercise(
    "03.7",
    title="What the host can paint",
    hints=[
        "two equations, two unknowns: write latent and v with x and e, and get rid of e",
        "a*latent - b*v, with a = sqrt(alpha_bar) and b = sqrt(1 - alpha_bar), has no e left; a*a + b*b is 1",
    ],
    minutes=8,
    difficulty=3,
)
def clean(answer: object) -> str | Wrong | None:
    """clean(latent, v, alpha_bar): the clean latent x, from latent = a x + b e and v = a e - b x."""
    for seed, alpha in ((11, 0.5), (12, 0.9), (13, 0.02)):
        x, e = _draw(seed), _draw(seed + 100)
        a, b = math.sqrt(alpha), math.sqrt(1 - alpha)
        latent, v = a * x + b * e, a * e - b * x
        got = _tensor(call(answer, latent.clone(), v.clone(), torch.tensor(alpha)), tuple(x.shape), "the clean latent")
        if isinstance(got, Wrong):
            return got
        if _near(got, x):
            continue
        if _near(got, (latent - b * v) / a):
            return Wrong("that is the formula for a denoiser that predicts e; this one predicts v", 1)
        if _near(got, e):
            return Wrong("that is the noise e; the picture is x", 1)
        if _near(got, alpha * latent - (1 - alpha) * v):
            return Wrong("alpha_bar is a square: a and b are square roots", 2)
        return Wrong(f"at alpha_bar = {alpha} the values are not those of the clean latent", 2)
    return None
