"""The control: a picture that is painted without a look at the wire."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...wire.view import View
from ..knowledge import Knowledge
from .base import PictureAttack
from .clock import Clock
from .fitted import FittedTelescope, own_pictures
from .run import Run, runs


class MeanPicture(PictureAttack):
    """The mean latent of own pictures, the same for every session: what an attack has to beat to have read anything.

    pictures, guidance: as in FittedTelescope, which draws the same ones.
    """

    requires: ClassVar[tuple[str, ...]] = FittedTelescope.requires
    reads: str = ""
    inside: ClassVar[bool | None] = None

    def __init__(self, pictures: int = 24, guidance: float | None = None) -> None:
        self.pictures, self.guidance = pictures, guidance

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        calls = runs(view)[0].calls
        self.mean_ = own_pictures(knowledge, calls, self.pictures, self.guidance)[1].mean(0)

    def _read(self, view: View, run: Run, clock: Clock) -> tuple[Tensor, Tensor]:
        return self.mean_[None], torch.stack([self.mean_[None]] * run.calls)

    def _notes(self) -> dict[str, Any]:
        return {"own pictures": self.pictures}
