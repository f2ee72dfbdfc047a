"""A prototype of every token and one covariance: linear discriminant analysis over the whole vocabulary."""

from __future__ import annotations

from copy import copy
from typing import ClassVar

import torch
from torch import Tensor

from .knowledge import Knowledge
from .probe import Probe
from .prototypes import NEVER, bank, drawn, spare
from .study import Study

FLAT = 1e-6  # of the vectors' own variance that is always added


class PrototypeLDA(Probe):
    """score_v = (h - b)' C^-1 mu_v - mu_v' C^-1 mu_v / 2 (Fisher 1936), with a prototype mu_v for every token.

    mu_v: the mean vector of token v in random contexts, drawn to what texts show of it, as much as they show. b and C:
    mean and covariance of what is left of the texts' vectors. contexts: random ones of each token; weight: how many
    occurrences in texts these count for; penalty: a share of the mean variance, added to every variance.
    """

    requires: ClassVar[tuple[str, ...]] = (*Probe.requires, "head weights or queries")

    def __init__(self, contexts: int = 2, weight: float = 8.0, penalty: float = 1e-2) -> None:
        self.contexts, self.weight, self.penalty = contexts, weight, penalty

    def _learn(self, learned: Study, knowledge: Knowledge) -> None:
        found = bank(knowledge, self.place_.depth, self.vocabulary_, self.contexts, spare(knowledge, learned))
        if knowledge.queries is not None:
            self.cost_.queries += found.sent
        both = found.there[learned.tokens]
        rest = learned.vectors[both] - found.mean[learned.tokens[both]]
        self.shift_ = rest.mean(0)
        rest = (rest - self.shift_).double()
        spread = rest.T @ rest / len(rest)
        # with no layer before the cut nothing is left over, and any small spread does
        spread.diagonal().add_(self.penalty * spread.diagonal().mean() + FLAT * float(learned.vectors.var()))
        self.spread_, self.clear_ = spread.float(), None  # nothing to clear vectors of
        mu, known = drawn(found, learned, self.shift_, self.weight)
        self.weights_ = torch.linalg.solve(spread, mu.double().T).float()
        self.bias_ = (-0.5 * (mu * self.weights_.T).sum(-1)).masked_fill(~known, NEVER)

    def within(self, noise: float) -> PrototypeLDA:
        """The same prototypes, for vectors with fresh noise of this standard deviation: C + noise^2 in the place of C.

        (C + noise^2)^-1 mu is C (C + noise^2)^-1 on the vectors and C^-1 mu as before.
        """
        other = copy(self)
        variances, axes = torch.linalg.eigh(self.spread_.double())
        left = (variances / (variances + noise**2)).float()  # of each axis
        axes = axes.float()
        mu = (self.weights_.T @ axes).square() @ (variances.float() * left)  # mu' (C + noise^2)^-1 mu
        other.bias_ = torch.where(self.bias_ == NEVER, self.bias_, -0.5 * mu)
        other.clear_ = axes * left @ axes.T
        return other

    def _scores(self, vectors: Tensor) -> Tensor:
        moved = vectors - self.shift_
        return (moved if self.clear_ is None else moved @ self.clear_) @ self.weights_ + self.bias_
