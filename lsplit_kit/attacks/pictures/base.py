"""What every attack on pictures is, and what it hands over: latents, pictures, and beliefs step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...card import Card
from ...errors import UnsupportedOption
from ...wire.view import View
from ..attack import Attack, Cost
from ..knowledge import Knowledge
from .clock import Clock
from .run import Run, runs


@dataclass(frozen=True, repr=False)
class Painted(Card):
    """What an attack makes of the pictures of a view.

    latents: the finished latent [C, h, w] as it believes, by picture. steps: the same after each call [S, C, h, w].
    pictures: the finished ones, uint8 [H, W, 3]. draw: latents [n, C, h, w] -> such pictures [n, H, W, 3]. reads: what
    the denoiser read at each call [S, C, h, w], where the attack found it out.
    """

    attack: str
    observer: str
    latents: list[Tensor]
    steps: list[Tensor]
    pictures: list[np.ndarray]
    draw: Callable[[Tensor], np.ndarray]
    cost: Cost
    notes: dict[str, Any] = field(default_factory=dict)
    reads: list[Tensor] | None = None

    def strip(self, number: int = 0) -> list[np.ndarray]:
        """What the attack could paint of a picture after each call, uint8 [H, W, 3]."""
        return list(self.draw(self.steps[number]))

    def _card(self) -> tuple[str, dict[str, object]]:
        count = len(self.pictures)
        return f"{self.attack} by {self.observer}", {
            "pictures": count,
            "size": " x ".join(map(str, self.pictures[0].shape[1::-1])) if count else "none",
            "fitting": f"{self.cost.fit_seconds:.2f} CPU-s",
            "reading": f"{self.cost.read_seconds:.2f} CPU-s"
            + (f", {self.cost.read_seconds / count:.2f} a picture" if count else ""),
            **self.notes,
        }


class PictureAttack(Attack):
    """Base of the attacks on pictures: `reconstruct` gives `Painted`."""

    requires: ClassVar[tuple[str, ...]] = ("scheduler", "autoencoder")

    def reconstruct(self, view: View) -> Painted:  # type: ignore[override]
        """The pictures of a view; raises NeedsKnowledge when the attack was not fitted."""
        return super().reconstruct(view)  # type: ignore[return-value]

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self.fits(cut_of(view))

    inside: ClassVar[bool | None] = False  # whether the attack is for a cut inside the denoiser; None: for either

    @classmethod
    def fits(cls, cut: int) -> None:
        """Raise UnsupportedOption where the attack is not for a cut in front of which so many parts stand."""
        if cls.inside is False and cut:
            raise UnsupportedOption(
                f"{cls.__name__} reads latents and noise, and this cut lies inside; use HiddenInversion."
            )
        if cls.inside and not cut:
            raise UnsupportedOption(
                f"{cls.__name__} is for a cut inside; at the denoiser the latents themselves cross."
            )

    def _reconstruct(self, view: View) -> Painted:  # type: ignore[override]
        latents, steps, pictures = [], [], []
        draw = drawer(self.knowledge_)
        for run in runs(view):
            clock = Clock(self.knowledge_.model.scheduler, run.calls, run.times)
            made, beliefs = self._read(view, run, clock)
            for row, latent in enumerate(made):
                latents.append(latent)
                steps.append(beliefs[:, row])
                pictures.append(draw(latent[None])[0])
        name = type(self).__name__
        return Painted(name, view.observer, latents, steps, pictures, draw, self.cost_, self._notes())

    def _read(self, view: View, run: Run, clock: Clock) -> tuple[Tensor, Tensor]:
        """The finished latents [P, C, h, w] of a run and the beliefs [S, P, C, h, w] after its calls."""
        raise NotImplementedError

    def _notes(self) -> dict[str, Any]:
        return {}


def cut_of(view: View) -> int:
    """How many parts stand before the body: 0 where the whole denoiser is away."""
    return int(view.manifest["layers"][0])


def picture_knowledge(pipe: Any, **changes: Any) -> Knowledge:
    """What anyone knows who has the public pipeline, tokenizer included."""
    return Knowledge(**{"model": pipe, "tokenizer": getattr(pipe, "tokenizer", None), **changes})


def drawer(knowledge: Knowledge) -> Callable[[Tensor], np.ndarray]:
    """Latents [n, C, h, w] -> pictures uint8 [n, H, W, 3], one by one, as the library's pipeline does it."""
    pipe = knowledge.model
    vae = pipe.vae
    shift = vae.config.get("shift_factor") or 0.0

    @torch.inference_mode()
    def draw(latents: Tensor) -> np.ndarray:
        if latents.dim() != 4:
            raise UnsupportedOption("These latents are packed; only those of a U-Net, [n, C, h, w], are drawn here.")
        made = []
        for one in latents.to(vae.dtype).split(1):
            image = vae.decode(one / vae.config.scaling_factor + shift, return_dict=False)[0]
            made.append((pipe.image_processor.postprocess(image, output_type="np") * 255).round().astype(np.uint8))
        return np.concatenate(made)

    return draw
