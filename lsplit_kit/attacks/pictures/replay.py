"""The sampler run again: the start latent and every noise, or the public denoiser's own, give the finished picture."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...quantization import codec
from ...split.image import part_of
from ...wire.view import View
from ..knowledge import Knowledge
from .base import PictureAttack
from .clock import Clock
from .guidance import guided, latents_of
from .run import Run


class ReplaySampler(PictureAttack):
    """Start latent and noises through the public scheduler: the very latent that the learner decodes.

    afresh: each step begins from the latent that crossed, where one did (a rounded start is far off in the end).
    guidance: as in CleanEstimate.
    """

    also: ClassVar[str] = "down"

    def __init__(self, afresh: bool = True, guidance: float | None = None) -> None:
        self.afresh, self.guidance = afresh, guidance

    def _read(self, view: View, run: Run, clock: Clock) -> tuple[Tensor, Tensor]:
        latents = latents_of(run, clock)
        noises = self._noises(view, run, clock, latents)
        made = clock.play(latents[0], noises, latents if self.afresh else None)
        before = [latents[0], *made[:-1]]
        reads = [(latents.get(call, x) if self.afresh else x) * clock.scale(call) for call, x in enumerate(before)]
        beliefs = [clock.clean(call, noise, read) for call, (noise, read) in enumerate(zip(noises, reads, strict=True))]
        return made[-1], torch.stack([*beliefs[:-1], made[-1]])

    def _noises(self, view: View, run: Run, clock: Clock, latents: dict[int, Tensor]) -> list[Tensor]:
        """The noise of every call, after guidance."""
        outputs = [run.outputs[call] for call in range(run.calls)]
        noises, self.scale_ = guided(outputs, latents, clock, view, self.knowledge_.model, self.guidance)
        return noises

    def _notes(self) -> dict[str, Any]:
        scale = getattr(self, "scale_", None)
        return {"guidance": scale} if scale is not None else {}


class OwnReplay(ReplaySampler):
    """The uplink alone: start latent and text embeddings, and the public denoiser run on them.

    What it computes goes through the codec of what comes down, where that is known: then it is rounded alike.
    """

    requires: ClassVar[tuple[str, ...]] = (*PictureAttack.requires, "denoiser")
    also: ClassVar[str] = ""

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        super()._fit(view, knowledge)
        self.denoiser_ = getattr(knowledge.model, part_of(knowledge.model))

    @torch.inference_mode()
    def _noises(self, view: View, run: Run, clock: Clock, latents: dict[int, Tensor]) -> list[Tensor]:
        model, arguments, known = self.knowledge_.model, run.arguments(), dict(latents)
        rows, given = len(latents[0]), len(run.text)
        twice = given == 2 * rows
        scale: float | None = None
        down = codec(view.manifest["down"]).coder() if self.knowledge_.codec else None
        at_host = view.manifest["policy"] == "lockstep" and view.manifest.get("guidance") is not None
        outputs: list[Tensor] = []

        def rounded(tensor: Tensor) -> Tensor:
            return tensor if down is None else down.again(down.encode(tensor), tensor.dtype)

        noises: list[Tensor] = []
        scheduler = clock.fresh()
        latent = latents[0]
        for call in range(run.calls):
            latent = known.get(call, latent) if self.afresh else latent
            read = latent * clock.scale(call) if clock.scale(call) != 1 else latent
            read = torch.cat([read, read]) if twice else read
            time = run.times.get(call, clock.times[call])
            out = self.denoiser_(read, time, **arguments, return_dict=False)[0]
            if not twice:
                noise = rounded(out)
            elif at_host:
                scale = float(view.manifest["guidance"])
                noise = rounded(guided([out], latents, clock, view, model, scale)[0][0])
            else:
                outputs.append(rounded(out))
                if scale is None:
                    _, scale = self._scale(outputs, known, clock, view)
                noise = guided(outputs[-1:], latents, clock, view, model, scale)[0][0]
            noises.append(noise)
            latent = scheduler.step(noise, clock.times[call], latent, return_dict=False)[0]
        self.scale_ = scale
        return noises

    def _scale(
        self, outputs: list[Tensor], latents: dict[int, Tensor], clock: Clock, view: View
    ) -> tuple[list[Tensor], float | None]:
        return guided(outputs, latents, clock, view, self.knowledge_.model, self.guidance)
