"""A prototype of every token and one covariance: linear discriminant analysis over the whole vocabulary."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .knowledge import Knowledge
from .probe import Probe
from .study import Study, bank

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
        mu = bank(knowledge, self.place_.depth, self.vocabulary_, self.contexts).clone()
        if knowledge.queries is not None:
            self.cost_.queries += self.contexts * len(mu)
        rest = learned.vectors - mu[learned.tokens]
        self.shift_ = rest.mean(0)
        rest = (rest - self.shift_).double()
        spread = rest.T @ rest / len(rest)
        # with no layer before the cut nothing is left over, and any small spread does
        spread.diagonal().add_(self.penalty * spread.diagonal().mean() + FLAT * float(learned.vectors.var()))
        seen = torch.bincount(learned.tokens, minlength=len(mu))[:, None]
        mu.mul_(self.weight).index_add_(0, learned.tokens, learned.vectors - self.shift_).div_(self.weight + seen)
        self.weights_ = torch.linalg.solve(spread, mu.double().T).float()
        self.bias_ = -0.5 * (mu * self.weights_.T).sum(-1)

    def _scores(self, vectors: Tensor) -> Tensor:
        return (vectors - self.shift_) @ self.weights_ + self.bias_
