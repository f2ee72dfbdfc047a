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
SHARES = (0.1, 0.5)  # least and largest share of new candidates that are those pointed to


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
        """New ids [count]: the likeliest, and those whose embedding the candidates tried point to.

        Behind this very text, vectors and embeddings of the candidates are nearly linear in each other: a ridge
        regression on what was tried says where the embedding of h must be. Behind many layers that is less true: the
        more it explains of candidates that it was not fitted to, the more of those pointed to are tried, half at most.
        """
        beliefs = self.beliefs.clone()
        beliefs[self.ids] = -torch.inf
        count = min(count, len(beliefs) - len(self.ids))
        away, explained = self._pointed() if len(self.ids) > 1 else (None, 0.0)
        pointed = 0 if away is None else round(count * min(max(explained, SHARES[0]), SHARES[1]))
        likely = beliefs.topk(count - pointed).indices
        if away is None or not pointed:
            return likely
        away[self.ids], away[likely] = torch.inf, torch.inf
        return torch.cat([likely, away.topk(pointed, largest=False).indices])

    def _pointed(self) -> tuple[Tensor, float]:
        """Squared distance [V], but for a constant, of every embedding from where that of h must be.

        With the share of the variance of tried embeddings that is explained of each by a regression on the others.
        """
        near = (self.vectors - self.h).norm(dim=-1).topk(min(LOCAL, len(self.ids)), largest=False).indices
        vectors, known = self.vectors[near], self.rows[self.ids[near]]
        middle = vectors.mean(0)
        x, y = vectors - middle, known - known.mean(0)
        gram = x @ x.T
        gram.diagonal().add_(STIFF * gram.diagonal().mean())
        inverse = torch.linalg.inv(gram)
        weights = inverse @ y
        left = (weights / inverse.diagonal()[:, None]).square().sum()  # leaving each out in turn, in closed form
        place = (self.h - middle) @ x.T @ weights + known.mean(0)
        away = torch.linalg.vector_norm(self.rows, dim=-1).square_().addmv_(self.rows, place, alpha=-2)
        return away, 1 - float(left / y.square().sum().clamp_min(1e-12))

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

    def distance(self) -> float:
        """|F - h| / |h| of the nearest that was tried."""
        return float((self.vectors - self.h).norm(dim=-1).min() / self.h.norm().clamp_min(1e-12))

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
