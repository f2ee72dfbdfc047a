"""The tuned lens in closed form: a linear map takes the place of the tail's layers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..split.graft import head_side
from ..wire.view import View
from .ahead import Ahead
from .knowledge import Knowledge
from .layers import place_of
from .study import Place, shelved, windows


class TunedLens(Ahead):
    """norm and LM head behind W h + b, where W and b lead from the cut to the end of the model (arXiv 2303.08112).

    Both ends at length sqrt(d); W and b by ridge regression on the attacker's text, not by gradient steps on what the
    model says. penalty: a share of the mean diagonal of the covariance. pairs: how many positions to learn from.
    """

    requires: ClassVar[tuple[str, ...]] = ("tokenizer", "text", "LM head", "language model")

    def __init__(self, penalty: float = 1e-2, pairs: int = 20_000) -> None:
        self.penalty, self.pairs = penalty, pairs

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self.place_ = place_of(view, knowledge, self.reads)
        self._behind(knowledge, knowledge.model.config.get_text_config().num_hidden_layers)
        here, there = (unit(ends).double() for ends in both_ends(knowledge, self.place_, self.pairs))
        self.centre_, self.middle_ = here.mean(0), there.mean(0)
        x, y = here - self.centre_, there - self.middle_
        normal = x.T @ x
        normal.diagonal().add_(self.penalty * normal.diagonal().mean())
        self.weight_ = torch.linalg.solve(normal, x.T @ y).float()
        self.centre_, self.middle_ = self.centre_.float(), self.middle_.float()

    def _lens(self, vectors: Tensor) -> Tensor:
        return (unit(vectors) - self.centre_) @ self.weight_ + self.middle_


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., d] at a root mean square of 1."""
    return vectors / vectors.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-9)


def both_ends(knowledge: Knowledge, place: Place, count: int) -> tuple[Tensor, Tensor]:
    """Vectors [n, d] of the attacker's texts at a place and at the end of the model, first positions left out."""

    def make() -> tuple[Tensor, Tensor]:
        model: Any = knowledge.model
        layers = model.config.get_text_config().num_hidden_layers
        whole = shelved(
            knowledge, ("copy", layers, torch.bfloat16), lambda: head_side(model, layers).to(torch.bfloat16)
        )
        ends: tuple[list[Tensor], list[Tensor]] = ([], [])
        with torch.inference_mode():
            for ids in windows(knowledge, count)[0].split(16):
                out = whole(ids, use_cache=False, output_hidden_states=True)
                here = out.hidden_states[place.depth] if place.depth < layers else out.last_hidden_state
                ends[0].append(place.through(here.float())[:, 1:].flatten(0, 1))
                ends[1].append(out.last_hidden_state.float()[:, 1:].flatten(0, 1))
        return torch.cat(ends[0]), torch.cat(ends[1])

    return shelved(knowledge, ("both ends", place, count), make)
