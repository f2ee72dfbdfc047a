"""What comes down is nearly the picture: the sampler run on the noises alone, from a start that is made up.

Of a denoiser that predicts noise, the start latent is its own first noise and its first guess of the picture, so that
x0 = guess + s_T eps_T + sum (s_{j+1} - s_j) eps_j, with s = sqrt(1 - abar) / sqrt(abar) of DDIM (arXiv 2010.02502, eq.
12, added up). Everything but the guess, a blurred average, comes down.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...wire.view import View
from .base import PictureAttack
from .clock import Clock
from .guidance import guided
from .run import Run


class Telescope(PictureAttack):
    """The finished latent but for the first guess, out of what comes down.

    mean: a latent [C, h, w] in the place of the first guess, such as the average of many pictures; None: zero.
    guidance: the scale, where both halves come down; None: the pipeline's usual one.
    Where the denoiser predicts v or a flow, its first answer is nearly the guess itself, and what is missing is the
    start latent, which is noise: its share of the finished latent stays unknown.
    """

    reads: str = "down"

    def __init__(self, mean: Tensor | None = None, guidance: float | None = None) -> None:
        self.mean, self.guidance = mean, guidance

    def _read(self, view: View, run: Run, clock: Clock) -> tuple[Tensor, Tensor]:
        outputs = [run.outputs[call] for call in range(run.calls)]
        pipe = self.knowledge_.model
        noises, self.scale_ = guided(outputs, {}, clock, view, pipe, self.guidance)
        noises = [noise[:, : pipe.vae.config.latent_channels] for noise in noises]  # no learned variances
        start = self._start(clock, noises[0])
        made = clock.play(start, noises)
        beliefs = [
            clock.clean(call, noise, latent * clock.scale(call))
            for call, (noise, latent) in enumerate(zip(noises, [start, *made[:-1]], strict=True))
        ]
        return made[-1], torch.stack([*beliefs[:-1], made[-1]])

    def _start(self, clock: Clock, noise: Tensor) -> Tensor:
        """The start latent [P, C, h, w] with `mean` for the first guess."""
        mean = torch.zeros_like(noise) if self.mean is None else self.mean.to(noise).expand_as(noise)
        signal, loud = clock.level(0)
        if clock.prediction == "epsilon" and not clock.flow:
            return (signal * mean + loud * noise) / clock.scale(0)
        return signal * mean / clock.scale(0)

    def _notes(self) -> dict[str, Any]:
        scale = getattr(self, "scale_", None)
        return {"first guess": "left out" if self.mean is None else "a mean picture"} | (
            {"guidance": scale} if scale is not None else {}
        )
