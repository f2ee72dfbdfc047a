"""A linear map back to the embedding table, fitted in closed form."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .knowledge import Knowledge
from .probe import Probe
from .prototypes import NEVER, bank, spare
from .study import Study

CONTEXTS = 2  # random ones of each token, where these stand for embeddings


class Ridge(Probe):
    """W = argmin |(h - mean) W - (E_x - mean)|^2 + penalty |W|^2, then the nearest row of E (linear probe).

    E: the embedding table; who has none, and may ask the head, takes the mean vector of every token in random contexts.
    penalty: a share of the mean diagonal of the vectors' covariance. pairs: how many (vector, token) to learn from.
    """

    requires: ClassVar[tuple[str, ...]] = (*Probe.requires, "head weights or queries")

    def __init__(self, penalty: float = 1e-3, pairs: int = 50_000) -> None:
        self.penalty, self.pairs = penalty, pairs

    def _learn(self, learned: Study, knowledge: Knowledge) -> None:
        known = torch.ones(self.vocabulary_, dtype=torch.bool)
        if knowledge.has("embeddings"):
            rows = knowledge.model.get_input_embeddings().weight.detach().float()[: self.vocabulary_]
        else:
            found = bank(knowledge, self.place_.depth, self.vocabulary_, CONTEXTS, spare(knowledge, learned))
            self.cost_.queries += found.sent
            rows, known = found.mean, found.there
        pairs = known[learned.tokens].nonzero()[: self.pairs, 0]
        x, y = learned.vectors[pairs].double(), rows[learned.tokens[pairs]].double()
        self.centre_, middle = x.mean(0), y.mean(0)
        x, y = x - self.centre_, y - middle
        normal = x.T @ x
        normal.diagonal().add_(self.penalty * normal.diagonal().mean())
        weight = torch.linalg.solve(normal, x.T @ y)
        error = float((x @ weight - y).square().mean())  # of one value: what is near is near on this scale
        # -|hW + b - E_v|^2 / 2 error, but for what is the same for all v, in one product
        self.weight_ = (weight / error).float() @ rows.T
        self.bias_ = ((2 * rows @ middle.float() - rows.square().sum(-1)) / (2 * error)).masked_fill(~known, NEVER)
        self.centre_ = self.centre_.float()

    def _scores(self, vectors: Tensor) -> Tensor:
        return (vectors - self.centre_) @ self.weight_ + self.bias_
