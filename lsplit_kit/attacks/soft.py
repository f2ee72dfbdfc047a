"""Optimised embeddings: gradient descent on what goes into the head until what comes out of it is what crossed."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..split.graft import head_side
from ..wire.view import Heard, View
from .attack import Attack, Reconstruction
from .knowledge import Knowledge
from .layers import place_of
from .probe import BEST
from .study import shelved

BATCH = 8  # conversations that are optimised side by side


class SoftEmbedding(Attack):
    """argmin_e sum_t 1 - cos(F(e)_t, h_t) by Adam, then the embedding rows nearest to e (EIA, PIA: arXiv 2503.09022).

    What matching tries token by token, this tries between tokens: slower, and a beginning that is wrong spoils what
    follows. The codec is not modelled. bound: the price of a value beyond those of the embedding table.
    """

    requires: ClassVar[tuple[str, ...]] = ("tokenizer", "head weights", "embeddings")

    def __init__(self, steps: int = 300, rate: float = 0.05, bound: float = 0.1, seed: int = 0) -> None:
        self.steps, self.rate, self.bound, self.seed = steps, rate, bound, seed

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self.place_ = place_of(view, knowledge, self.reads)
        depth, model = self.place_.depth, knowledge.model
        self.head_: Any = shelved(knowledge, ("copy", depth, torch.float32), lambda: head_side(model, depth))
        self.rows_ = model.get_input_embeddings().weight.detach().float()[: len(knowledge.tokenizer)]

    def _reconstruct(self, view: View) -> Reconstruction:
        heard = [c.up for c in view.conversations()]
        top: list[Tensor] = []
        for first in range(0, len(heard), BATCH):
            batch = heard[first : first + BATCH]
            for soft, one in zip(self._soft(batch), batch, strict=True):
                away = torch.cdist(soft[: len(one.vectors)], self.rows_)
                top.append(away.topk(BEST, largest=False).indices)
        return Reconstruction(
            type(self).__name__, view.observer, [t[:, 0] for t in top], top, [h.positions for h in heard],
            None, self.cost_, {"steps": self.steps},
        )  # fmt: skip

    def _soft(self, heard: list[Heard]) -> Tensor:
        """Embeddings [B, T, d] that the head turns into what was heard; what stands behind a shorter text is idle."""
        wanted = torch.nn.utils.rnn.pad_sequence([h.vectors.float() for h in heard], batch_first=True)
        there = wanted.abs().sum(-1) > 0
        draw = torch.Generator().manual_seed(self.seed)
        soft = self.rows_[torch.randint(len(self.rows_), there.shape, generator=draw)].clone().requires_grad_()
        low, high = self.rows_.amin(0), self.rows_.amax(0)
        adam = torch.optim.Adam([soft], lr=self.rate)
        for _ in range(self.steps):
            found = self.head_(inputs_embeds=soft, use_cache=False).last_hidden_state
            away = 1 - F.cosine_similarity(found, wanted, dim=-1)
            out = (F.relu(soft - high) + F.relu(low - soft)).sum(-1)
            (soft.grad,) = torch.autograd.grad(((away + self.bound * out) * there).sum(), soft)
            adam.step()
        return soft.detach()
