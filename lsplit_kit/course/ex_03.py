"""Checks for chapter 03, diffusion and what crosses."""

from __future__ import annotations

import math

import torch

from lsplit_kit.course.calling import number, whole
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.tensors import SHAPE, draw, near, tensor_of


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
        noise = draw(rows, 2 * rows, *SHAPE[1:])
        without, asked = noise[:rows], noise[rows:]
        got = tensor_of(call(answer, noise.clone(), scale), tuple(without.shape), "the guided noise")
        if isinstance(got, Wrong):
            return got
        right = without + scale * (asked - without)
        if near(got, right):
            continue
        if scale == 0:
            return Wrong("at scale 0 the guided noise must be the guess without the prompt", 2)
        if near(got, asked + scale * (without - asked)):
            return Wrong("the two halves are exchanged", 1)
        if rows > 1 and near(got, noise[0::2] + scale * (noise[1::2] - noise[0::2])):
            return Wrong("the halves are the first B and the last B rows, not every second one", 1)
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
            hint = 1 if guided and count == 2 * right else 2 if mode == "lockstep" else 0
            return Wrong(f"{'fewer' if count < right else 'more'} than cross for {asked}", hint)
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
    for up, steps, values in ((4096, 20, 1024), (0, 1, 1024), (500_000, 20, 16_384), (28_000, 4, 1024)):
        value = call(answer, up, steps, values)
        share = number(value)
        if share is None:
            return f"a number was expected, got {type(value).__name__}"
        full = up + 4 * values * steps
        right = 1 - (up + (values + 8) * steps) / full
        if math.isclose(share, right, abs_tol=1e-6):
            continue
        asked = f"{up:,} bytes up once, {steps} step{'s' if steps > 1 else ''} of {values:,} values"
        if 1 < share <= 100:
            return Wrong("a share from 0 to 1 was expected, not per cent", 3)
        if up and math.isclose(share, 0.75, abs_tol=3e-3):
            return Wrong(f"that is the downlink's saving, and {up:,} bytes went up", 1)
        if math.isclose(share, 1 - right, abs_tol=1e-6):
            return Wrong("that is what remains, not what is saved", 3)
        if math.isclose(share, 1 - (up + values * steps) / full, abs_tol=1e-6):
            return Wrong(f"a little too much for {asked}: INT8 values alone do not say what they stand for", 2)
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
                return f"a pair (up, down), a tuple, was expected, got {type(value).__name__}"
            got = [whole(x) for x in value]
            right = channels[max(k - 1, 0)] * (side >> k) ** 2, channels[k] * (side >> k) ** 2
            for name, count, wanted, hint in zip(("up", "down"), got, right, (2, 3), strict=True):
                if count is None:
                    return f"two whole numbers were expected (divide with //), got {value}"
                if count != wanted:
                    more = "too many" if count > wanted else "too few"
                    asked = f"{name} for k={k}, channels {channels}, side {side}"
                    if k == 0 and count in (2 * wanted, 4 * wanted):
                        return Wrong(f"{more} values {asked}: one row, in values, not in bytes")
                    return Wrong(f"{more} values {asked}", 1 if k and count in (wanted * 2**k, wanted * 4**k) else hint)
    return None


@exercise(
    "03.7",
    title="What the host can paint",
    hints=[
        "two equations, two unknowns: write latent and v with x and e, and get rid of e",
        "multiply the first equation by a, the second by b, and subtract; a² + b² is 1",
    ],
    minutes=8,
    difficulty=3,
)
def clean(answer: object) -> str | Wrong | None:
    """clean(latent, v, alpha_bar): the clean latent x, from latent = a x + b e and v = a e - b x."""
    for seed, alpha in ((11, 0.9), (12, 0.5), (13, 0.02)):
        x, e = draw(seed), draw(seed + 100)
        a, b = math.sqrt(alpha), math.sqrt(1 - alpha)
        latent, v = a * x + b * e, a * e - b * x
        got = tensor_of(
            call(answer, latent.clone(), v.clone(), torch.tensor(alpha)), tuple(x.shape), "the clean latent"
        )
        if isinstance(got, Wrong):
            return got
        if near(got, x):
            continue
        if near(got, (latent - b * v) / a):
            return Wrong("that is the formula for a denoiser that predicts e; this one predicts v", 1)
        if near(got, e):
            return Wrong("that is the noise e; the picture is x", 1)
        if near(got, alpha * latent - (1 - alpha) * v):
            return Wrong("alpha_bar is a square: a and b are square roots", 2)
        return Wrong(f"at alpha_bar = {alpha} the values are not those of the clean latent", 2)
    return None
