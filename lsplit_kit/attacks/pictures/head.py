"""The public ends of a denoiser that is cut inside: latents -> what goes up, and what comes down -> noise.

They are the local side itself, grafted from the public model, with an ear where the far middle would be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedOption
from ...split.image import part_of
from ...split.unet import local_unet
from ..knowledge import Knowledge
from .run import Run


class _HeardError(Exception):
    """The head has said what goes up; nothing behind it has to be computed."""


class _Ear:
    """Stands where the link to the body would be: keeps what goes up, and gives the answer that it was told."""

    answer: Tensor | None = None
    heard: Tensor

    def ask(self, build: Callable, dtype: torch.dtype, wanted: object, *more: object) -> list[Tensor]:
        self.heard = build(True)[1]["call"]["sample"]
        if self.answer is None:
            raise _HeardError
        return [self.answer]


class Ends:
    """Head and tail of the public denoiser for one run: its text embeddings and other arguments are those that crossed.

    rows: how many rows [R, C, h, w] of latents one picture takes: two under guidance.
    """

    def __init__(self, knowledge: Knowledge, depth: int, run: Run) -> None:
        denoiser = getattr(knowledge.model, part_of(knowledge.model))
        if not hasattr(denoiser, "down_blocks"):
            raise UnsupportedOption("Only a U-Net's blocks are inverted here.")
        self._ear = _Ear()
        self._local: Any = local_unet(denoiser, depth, self._ear)  # type: ignore[arg-type]
        self._whole, self._given = denoiser, run.arguments()
        self.rows, self.depth = len(run.text), depth
        self.channels = int(denoiser.config.in_channels)
        for parameter in self._local.parameters():  # shared with the public model, which nobody trains here
            parameter.requires_grad_(False)

    def up(self, read: Tensor, time: Tensor, given: dict[str, Any] | None = None) -> Tensor:
        """What goes up [R, C', h', w'] of latents [R, C, h, w] as the denoiser reads them."""
        self._ear.answer = None
        try:
            self._local(read, time, **(given or self._given), return_dict=False)
        except _HeardError:
            return self._ear.heard
        raise AssertionError("unreachable")

    def many(self, reads: Tensor, time: Tensor) -> Tensor:
        """What goes up of own latents [n, C, h, w], each with the last of the run's texts, [n, C', h', w']."""
        given = _spread(self._given, self.rows, len(reads))
        return self.up(reads, time, given)

    def noise(self, read: Tensor, time: Tensor, answer: Tensor | None) -> Tensor:
        """The denoiser's output [R, C, h, w]: with the answer that came down, or computed by the public model."""
        if answer is None:
            return self._whole(read, time, **self._given, return_dict=False)[0]
        self._ear.answer = answer
        return self._local(read, time, **self._given, return_dict=False)[0]


def _spread(given: dict[str, Any], rows: int, count: int) -> dict[str, Any]:
    """Arguments for `count` rows, all as those of the last row."""
    return {
        name: _spread(value, rows, count)
        if isinstance(value, dict)
        else value[-1:].expand(count, *value.shape[1:])
        if isinstance(value, Tensor) and value.dim() and len(value) == rows
        else value
        for name, value in given.items()
    }
