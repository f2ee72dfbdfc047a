"""One pair is enough: a latent and the noise predicted for it tell the finished picture at any step."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import UnsupportedOption
from ...wire.view import View
from .base import PictureAttack
from .clock import Clock
from .guidance import guided, latents_of
from .run import Run


class CleanEstimate(PictureAttack):
    """x0 = (x_t - sqrt(1 - abar) eps) / sqrt(abar), through the public autoencoder.

    step: the call whose pair is taken, counted from the end where negative; beliefs are of all calls; reading raises
    UnsupportedOption where a picture has no such call. guidance: the
    scale, where it does not cross; None: found out from the latents, or else the pipeline's usual one.
    """

    also: ClassVar[str] = "down"

    def __init__(self, step: int = -1, guidance: float | None = None) -> None:
        self.step, self.guidance = step, guidance

    def _read(self, view: View, run: Run, clock: Clock) -> tuple[Tensor, Tensor]:
        if not -run.calls <= self.step < run.calls:
            raise UnsupportedOption(
                f"CleanEstimate: there are {run.calls} calls, numbered from 0, or from -1 backwards; there is no "
                f"{self.step}."
            )
        outputs = [run.outputs[call] for call in range(run.calls)]
        latents = latents_of(run, clock)
        noises, self.scale_ = guided(outputs, latents, clock, view, self.knowledge_.model, self.guidance)
        if len(latents) < run.calls:  # in lockstep one goes up, and the others follow from it
            made = clock.play(latents[0], noises)
            latents = {call: latents[call] if call in latents else made[call - 1] for call in range(run.calls)}
        beliefs = torch.stack(
            [clock.clean(call, noise, latents[call] * clock.scale(call)) for call, noise in enumerate(noises)]
        )
        return beliefs[self.step], beliefs

    def _notes(self) -> dict[str, Any]:
        scale = getattr(self, "scale_", None)
        return {"step": self.step, **({"guidance": scale} if scale is not None else {})}
