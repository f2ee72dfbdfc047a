"""What comes down, weighted as own pictures teach: better than the sampler's weights and a made-up start.

The start latent does not come down, but what the denoiser says of it at every step does: the weights that give the
finished latents of own runs use that.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...split.image import part_of
from ...split.picture_host import combine
from ...wire.view import View
from ..knowledge import Knowledge
from ..study import shelved
from .base import PictureAttack
from .clock import Clock
from .guidance import guided, usual
from .run import Run, runs


class FittedTelescope(PictureAttack):
    """x0 = mean + sum of w_j (out_j - mean_j), with weights by least squares on `pictures` runs of the public pipeline.

    The own prompts are the passages of `Knowledge.text`. penalty: a share of the mean square. guidance: the scale that
    the victim uses, as far as the attacker knows; None: the pipeline's usual one.
    """

    requires: ClassVar[tuple[str, ...]] = (*PictureAttack.requires, "denoiser", "text encoder", "text")
    reads: str = "down"

    def __init__(self, pictures: int = 24, penalty: float = 1e-3, guidance: float | None = None) -> None:
        self.pictures, self.penalty, self.guidance = pictures, penalty, guidance

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        super()._fit(view, knowledge)
        calls = runs(view)[0].calls
        self.scale_ = usual(knowledge.model) if self.guidance is None else self.guidance
        noises, latents = own_pictures(knowledge, calls, self.pictures, self.scale_)
        self.middle_, self.mean_ = noises.mean(0), latents.mean(0)
        x = (noises - self.middle_).transpose(0, 1).flatten(1).double()  # [calls, values]
        y = (latents - self.mean_).flatten().double()
        square, product = x @ x.T, x @ y
        square.diagonal().add_(self.penalty * square.diagonal().mean())
        # by how many calls have been answered
        self.weights_ = [torch.linalg.solve(square[:n, :n], product[:n]).float() for n in range(1, calls + 1)]

    def _read(self, view: View, run: Run, clock: Clock) -> tuple[Tensor, Tensor]:
        outputs = [run.outputs[call] for call in range(run.calls)]
        noises, _ = guided(outputs, {}, clock, view, self.knowledge_.model, self.scale_)
        away = torch.stack(noises)[:, :, : self.mean_.shape[0]] - self.middle_[:, None]
        beliefs = [
            self.mean_ + torch.einsum("s,spchw->pchw", weights, away[: len(weights)]) for weights in self.weights_
        ]
        return beliefs[-1], torch.stack(beliefs)

    def _notes(self) -> dict[str, Any]:
        return {"own pictures": self.pictures, "guidance": self.scale_}


def own_pictures(knowledge: Knowledge, calls: int, count: int, scale: float | None) -> tuple[Tensor, Tensor]:
    """What `drawn` gives, drawn once for all attacks; scale: the pipeline's usual one if None."""
    scale = usual(knowledge.model) if scale is None else scale
    return shelved(knowledge, ("own pictures", calls, count, scale), lambda: drawn(knowledge, calls, count, scale))


@torch.inference_mode()
def drawn(knowledge: Knowledge, calls: int, count: int, scale: float) -> tuple[Tensor, Tensor]:
    """(guided noises [n, calls, C, h, w], finished latents [n, C, h, w]) of own prompts, by the public pipeline."""
    pipe, prompts = knowledge.model, list(knowledge.text or ())
    denoiser, noises, latents = getattr(pipe, part_of(pipe)), [], []
    heard: list[Tensor] = []
    hook = denoiser.register_forward_hook(lambda module, args, out: heard.append(out[0].clone()))
    quiet = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**quiet, "disable": True})
    try:
        for number in range(count):
            heard.clear()
            latent = pipe(
                prompts[number % len(prompts)], num_inference_steps=calls, guidance_scale=scale, output_type="latent",
                generator=torch.Generator().manual_seed(number),
            ).images  # fmt: skip
            latents.append(torch.as_tensor(latent)[0])
            noises.append(torch.stack([combine(out, scale)[0] if len(out) == 2 else out[0] for out in heard]))
    finally:
        hook.remove()
        pipe.set_progress_bar_config(**quiet)
    stacked = torch.stack(latents)
    return torch.stack(noises)[:, :, : stacked.shape[1]], stacked
