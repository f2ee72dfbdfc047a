"""The tuned lens in closed form: a linear map takes the place of the tail's layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..progress import progress
from ..split.graft import head_side
from ..wire.view import View
from .ahead import Ahead
from .knowledge import Knowledge
from .layers import place_of
from .study import Place, shelved, windows


class TunedLens(Ahead):
    """norm and LM head behind W h + b, where W and b lead from the cut to the end of the model (arXiv 2303.08112).

    Both ends at length sqrt(d); W and b by ridge regression on the attacker's text, not by gradient steps on what the
    model says. penalty: a share of the mean diagonal of the covariance. pairs: how many positions to learn from; by
    default as many as help on passages that were held out of the attacker's text (`benchmarks/lenses.py`).
    """

    requires: ClassVar[tuple[str, ...]] = ("tokenizer", "text", "LM head", "language model")

    def __init__(self, penalty: float = 1e-2, pairs: int = 60_000) -> None:
        self.penalty, self.pairs = penalty, pairs

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self.place_ = place_of(view, knowledge, self.reads)
        self._behind(knowledge, knowledge.model.config.get_text_config().num_hidden_layers)
        here, there = (unit(ends).double() for ends in both_ends(knowledge, self.place_, self.pairs))
        self.centre_, self.middle_ = here.mean(0), there.mean(0)
        x, y = here.sub_(self.centre_), there.sub_(self.middle_)
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
    here, there = (part.float() for part in run_through(knowledge, [place.depth], count))
    return place.through(here)[:, 1:].flatten(0, 1), there[:, 1:].flatten(0, 1)


@torch.inference_mode()
def run_through(knowledge: Knowledge, depths: Sequence[int], count: int) -> list[Tensor]:
    """Hidden tensors [N, T, d] of about `count` tokens of the attacker's texts, behind each of `depths` and at the end.

    In bfloat16, as they are computed. Whole runs of the model are what a lens costs: those there already are not run
    again, nor for fewer tokens.
    """
    model: Any = knowledge.model
    layers = model.config.get_text_config().num_hidden_layers
    ids = windows(knowledge, count)[0]
    wanted = [*depths, layers]
    lacking = [d for d in wanted if len(knowledge.shelf.get(("ends", d), ())) < len(ids)]
    if lacking:
        whole = shelved(
            knowledge, ("copy", layers, torch.bfloat16), lambda: head_side(model, layers).to(torch.bfloat16)
        )
        found: dict[int, list[Tensor]] = {d: [] for d in lacking}
        for part in progress(ids.split(16), "both ends of own texts", least=20):
            out = whole(part, use_cache=False, output_hidden_states=True)
            for depth in lacking:
                found[depth].append(out.hidden_states[depth] if depth < layers else out.last_hidden_state)
        knowledge.shelf.update({("ends", depth): torch.cat(parts) for depth, parts in found.items()})
    return [knowledge.shelf["ends", depth][: len(ids)] for depth in wanted]
