"""Which tokens to try next at one position, and which of those tried fits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .channel import Channel

BEST = 10  # guesses that are kept
FLOOR = 1e-3  # of the belief that a token is any other than the ones the prototypes point at
LOCAL = 1024  # nearest candidates that the regression is fitted to; its cost grows with their cube
STIFF = 1e-2  # ridge penalty, a share of the mean squared length


def ranked(expected: Tensor, scores: Tensor | None) -> Tensor:
    """Log beliefs [B, V]: what the language model expects, and what prototypes make of the vectors, never too sure."""
    if scores is None:
        return expected
    seen = scores.log_softmax(-1)
    return expected + torch.logaddexp(seen, torch.full_like(seen, math.log(FLOOR / seen.shape[-1])))


class Search:
    """One position: the vector h [d], beliefs [V] before anything was tried, and the candidates tried so far.

    prior: log p(v | text so far) [V], where the beliefs have seen h already.
    """

    def __init__(self, h: Tensor, beliefs: Tensor, rows: Tensor, prior: Tensor | None = None) -> None:
        self.h, self.beliefs, self.rows = h, beliefs, rows
        self.prior = beliefs if prior is None else prior
        self.likeliest = -1  # the id at the last look
        self.ids = torch.empty(0, dtype=torch.long)
        self.vectors = h.new_empty(0, len(h))

    def first(self, count: int, always: Tensor) -> Tensor:
        """The likeliest ids [count], those of `always` among them."""
        beliefs = self.beliefs.clone()
        beliefs[always] = torch.inf
        return beliefs.topk(min(count, len(beliefs))).indices

    def more(self, count: int) -> Tensor:
        """New ids [count]: half the likeliest, half those whose embedding the candidates tried point to.

        Behind this very text, vectors and embeddings of the candidates are nearly linear in each other: a ridge
        regression on what was tried says where the embedding of h must be.
        """
        beliefs = self.beliefs.clone()
        beliefs[self.ids] = -torch.inf
        count = min(count, len(beliefs) - len(self.ids))
        likely = beliefs.topk(count - count // 2 if len(self.ids) > 1 else count).indices
        if len(likely) == count:
            return likely
        away = self._pointed()
        away[self.ids], away[likely] = torch.inf, torch.inf
        return torch.cat([likely, away.topk(count - len(likely), largest=False).indices])

    def _pointed(self) -> Tensor:
        """Squared distance [V] of every embedding from where that of h must be."""
        near = (self.vectors - self.h).norm(dim=-1).topk(min(LOCAL, len(self.ids)), largest=False).indices
        vectors, known = self.vectors[near], self.rows[self.ids[near]]
        middle = vectors.mean(0)
        x, y = vectors - middle, known - known.mean(0)
        gram = x @ x.T
        gram.diagonal().add_(STIFF * gram.diagonal().mean())
        place = (self.h - middle) @ x.T @ torch.linalg.solve(gram, y) + known.mean(0)
        return (self.rows - place).square().sum(-1)

    def add(self, ids: Tensor, vectors: Tensor) -> None:
        """Candidates [n] were tried and gave vectors [n, d]; the newest of the same one counts."""
        old = ~torch.isin(self.ids, ids)
        self.ids = torch.cat([self.ids[old], ids])
        self.vectors = torch.cat([self.vectors[old], vectors.float()])

    def posterior(self, channel: Channel, last: int = 0) -> Tensor:
        """Log posterior, but for a constant, of those tried, or of the newest `last`."""
        return channel.belief(self.vectors[-last:], self.h) + self.prior[self.ids[-last:]]

    def near(self, count: int, channel: Channel) -> Tensor:
        """The ids [count] tried that are likeliest."""
        return self.ids[self.posterior(channel).topk(min(count, len(self.ids))).indices]

    def error(self, token: int) -> tuple[Tensor, Tensor]:
        """|F - h| and |h| [1] of a token that was tried."""
        return (self.vectors[self.ids == token] - self.h).norm(dim=-1)[:1], self.h.norm()[None]

    def best(self, channel: Channel, found: int | None) -> Tensor:
        """The likeliest ids [BEST] of those tried, the one that was found first; -1 where fewer were tried."""
        belief = self.posterior(channel)
        if found is not None:
            belief[found] = torch.inf
        best = self.ids[belief.topk(min(BEST, len(self.ids))).indices]
        return torch.cat([best, best.new_full((BEST - len(best),), -1)])
