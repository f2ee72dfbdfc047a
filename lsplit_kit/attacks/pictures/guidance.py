"""The guidance scale: said in the frames where the host guides, and otherwise what the next latent gives away.

A sampler's step is linear in the guided noise, without + s * (with - without), so of two noises and the latent that the
local side made of them, s follows by least squares.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...split.picture_host import combine
from ...wire.view import OBSERVERS, View
from .clock import Clock, first
from .run import Run

FITS = 0.5  # what may be left of the way from the unguided to the next latent, as a share, for a scale to be believed
DIGITS = 2  # people choose scales with few of them, and then what was measured is exact


def latents_of(run: Run, clock: Clock) -> dict[int, Tensor]:
    """The latents at the beginning of calls that crossed, [P, C, h, w], as the scheduler has them."""
    found = {call: read / clock.scale(call) for call, read in run.inputs.items()}
    return {**found, **run.latents}


def guided(
    outputs: Sequence[Tensor], latents: Mapping[int, Tensor], clock: Clock, view: View, pipe: Any, option: float | None
) -> tuple[list[Tensor], float | None]:
    """(the noises [P, ...] that the scheduler stepped with, the guidance scale); None where nothing is to be guided."""
    rows = len(next(iter(latents.values()))) if latents else len(outputs[0]) // 2 or 1
    if len(outputs[0]) != 2 * rows:
        return list(outputs), None
    scale = option if option is not None else said(view)
    scale = measured(outputs, latents, clock) if scale is None else scale
    scale = usual(pipe) if scale is None else scale
    return [combine(output, scale) for output in outputs], scale


def said(view: View) -> float | None:
    """The scale that went up in clear, to whoever sees what goes up."""
    return view.manifest.get("guidance") if "up" in OBSERVERS[view.observer] else None


def usual(pipe: Any) -> float:
    """The scale that the public pipeline uses when it is not told one."""
    return float(inspect.signature(type(pipe).__call__).parameters["guidance_scale"].default)


def measured(outputs: Sequence[Tensor], latents: Mapping[int, Tensor], clock: Clock) -> float | None:
    """The scale s that makes each latent from the one before; None where no two in a row are known, or none fits."""
    clock.check()
    plain, full = clock.fresh(), clock.fresh()
    ways, gone = [], []
    for call, output in enumerate(outputs):
        if call not in latents:
            break
        here = latents[call]
        without, conditioned = output.chunk(2)
        a, b = (
            s.step(first(noise, here), clock.times[call], here, return_dict=False)[0]
            for s, noise in ((plain, without), (full, conditioned))
        )
        if call + 1 in latents:
            ways.append((b - a).to(torch.float64).flatten())
            gone.append((latents[call + 1] - a).to(torch.float64).flatten())
    if not ways:
        return None
    way, far = torch.cat(ways), torch.cat(gone)
    scale = float(way @ far / (way @ way).clamp_min(1e-30))
    misses = float((far - scale * way).norm() / far.norm().clamp_min(1e-30))
    return round(scale, DIGITS) if misses < FITS else None
