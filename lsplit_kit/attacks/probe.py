"""Attacks that read each position by itself: vector in, a score for every token out, and a calibrated belief."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from ..wire.view import View
from .attack import Attack, Reconstruction
from .knowledge import Knowledge
from .layers import place_of
from .posterior import Posterior, fit_posterior
from .study import Study, counted, study

CHUNK, HELD, BEST = 128, 1024, 10  # positions scored at once; those that calibrate; guesses that are kept


class Probe(Attack):
    """Base of attacks that score tokens by position; a subclass writes `_learn` and `_scores`."""

    requires: ClassVar[tuple[str, ...]] = ("tokenizer", "text")

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self.place_ = place_of(view, knowledge, self.reads)
        learned = study(knowledge, self.place_)
        self.vocabulary_ = len(knowledge.tokenizer)
        self.log_prior_ = counted(learned.tokens, self.vocabulary_)
        self._learn(learned, knowledge)
        held, tokens = learned.held_vectors[:HELD], learned.held_tokens[:HELD]
        self.posterior_: Posterior = fit_posterior(self._scored(held), self.log_prior_, tokens)
        if knowledge.queries is not None:
            self.cost_.queries += learned.sent

    @abstractmethod
    def _learn(self, learned: Study, knowledge: Knowledge) -> None:
        """Fit to vectors and their tokens."""

    @abstractmethod
    def _scores(self, vectors: Tensor) -> Tensor:
        """Scores [n, V] of vectors [n, d]; higher is likelier."""

    def _scored(self, vectors: Tensor) -> Iterator[Tensor]:
        with torch.inference_mode():
            yield from (self._scores(part) for part in vectors.float().split(CHUNK))

    def beliefs(self, vectors: Tensor) -> Tensor:
        """Log probabilities [n, V] of vectors [n, d]."""
        return torch.cat(list(self.posterior_.log_probs(self._scored(vectors), self.log_prior_)))

    def guesses(self, vectors: Tensor) -> Tensor:
        """The ten likeliest tokens [n, 10]: the scores as they are, for a cautious belief leans on the prior more."""
        return torch.cat([(part + self.log_prior_).topk(BEST).indices for part in self._scored(vectors)])

    def _reconstruct(self, view: View) -> Reconstruction:
        heard = self.heard(view)
        top = [self.guesses(h.vectors) for h in heard]
        return Reconstruction(
            type(self).__name__, view.observer, [t[:, 0] for t in top], top, [h.positions for h in heard],
            lambda number: self.beliefs(heard[number].vectors), self.cost_,
        )  # fmt: skip
