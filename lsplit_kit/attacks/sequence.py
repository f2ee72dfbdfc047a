"""A learned inverter that reads a whole conversation: prototypes, corrected by a small recurrent net."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..progress import progress
from ..wire.view import View
from .knowledge import Knowledge
from .layers import place_of
from .lda import PrototypeLDA
from .posterior import fit_posterior
from .probe import CHUNK, HELD, Probe
from .study import Study, counted, study

BATCH, NEGATIVES = 8, 1024  # windows in a step; tokens that none of them holds, drawn for each
FARTHEST = 8.0  # standard deviations at which an outlier is cut off
LEAST = 0.02  # share of the scores that the loss begins with: a posterior may have found that they are worth nothing


class SequenceInverter(Probe):
    """`PrototypeLDA` on h_t + GRU(h_1 .. h_t): the net takes away what the tokens before left in a vector.

    A recurrent inverter of state sequences, as SIP of BiSR (arXiv 2409.00960), that begins as linear discriminant
    analysis and learns on the attacker's texts to tell the tokens of a batch apart, and others of the vocabulary. What
    it reads of a position depends on that and earlier ones. The first, where nothing stands before, is not corrected.
    hidden: units of the net; rate: of Adam at its highest.
    """

    requires: ClassVar[tuple[str, ...]] = PrototypeLDA.requires

    def __init__(self, hidden: int = 256, epochs: int = 2, rate: float = 2e-3, seed: int = 0) -> None:
        self.hidden, self.epochs, self.rate, self.seed = hidden, epochs, rate, seed

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self.place_ = place_of(view, knowledge, self.reads)
        learned = study(knowledge, self.place_)
        self.vocabulary_ = len(knowledge.tokenizer)
        self.log_prior_ = counted(learned.tokens, self.vocabulary_)
        self.lda_ = PrototypeLDA().fit(view, knowledge)
        self.cost_.queries += self.lda_.cost_.queries  # of the same texts
        self._learn(learned, knowledge)
        held, tokens = (part[: -(-HELD // part.shape[1])] for part in learned.windows[2:])
        with torch.inference_mode():
            cleared = self._cleared(held).flatten(0, 1)
            scores = (self._scores(part) for part in cleared.split(CHUNK))
            self.posterior_ = fit_posterior(scores, self.log_prior_, tokens.flatten())

    def _learn(self, learned: Study, knowledge: Knowledge) -> None:
        seen = learned.vectors.new_zeros(self.vocabulary_, learned.vectors.shape[1])
        counts = torch.bincount(learned.tokens, minlength=self.vocabulary_).clamp_min(1)[:, None]
        seen.index_add_(0, learned.tokens, learned.vectors).div_(counts)
        rest = (learned.vectors - seen[learned.tokens]).double()
        spread = rest.T @ rest / len(rest)
        least = 1e-6 * float(learned.vectors.square().mean())  # before any layer a token's vectors do not differ
        spread.diagonal().add_(1e-3 * spread.diagonal().mean() + least)
        sizes, axes = torch.linalg.eigh(spread)
        # the net sees and says vectors in these, of which all are as wide for one token
        self.into_, self.out_of_ = (axes / sizes.sqrt()).float(), (axes * sizes.sqrt()).float().T
        inside = learned.vectors @ self.into_
        self.centre_, self.spread_ = inside.mean(0), inside.std(0).clamp_min(1e-6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._train(*learned.windows[:2])

    def _train(self, vectors: Tensor, tokens: Tensor) -> None:
        width = vectors.shape[-1]
        self.net_, self.say_ = nn.GRU(width, self.hidden, batch_first=True), nn.Linear(self.hidden, width)
        nn.init.zeros_(self.say_.weight)  # it begins with no correction
        nn.init.zeros_(self.say_.bias)
        scale = nn.Parameter(torch.tensor(max(self.lda_.posterior_.tau, LEAST)).log())
        parts = [*self.net_.parameters(), *self.say_.parameters(), scale]
        rows = self.lda_.weights_.T.contiguous()
        batches = max(1, len(vectors) // BATCH)
        steps = self.epochs * batches
        adam = torch.optim.Adam(parts, lr=self.rate)
        pace = torch.optim.lr_scheduler.OneCycleLR(adam, self.rate, total_steps=steps + 1, pct_start=0.1)
        orders = (torch.randperm(len(vectors)).split(BATCH)[:batches] for _ in range(self.epochs))
        some = (part for order in orders for part in order)
        for part in progress(some, "inverter", steps, least=100):
            true = tokens[part].flatten()
            drawn = torch.randint(self.vocabulary_, (NEGATIVES,))
            among, right = torch.cat([true, drawn]).unique(return_inverse=True)
            cleared = self._cleared(vectors[part]).flatten(0, 1) - self.lda_.shift_
            scores = cleared @ rows[among].T + self.lda_.bias_[among]
            loss = F.cross_entropy(scale.exp() * scores, right[: len(true)])
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parts, 1.0)
            adam.step()
            pace.step()

    def _cleared(self, vectors: Tensor) -> Tensor:
        """Vectors [B, T, d] without what those before, of the same row, left in them."""
        seen = ((vectors @ self.into_ - self.centre_) / self.spread_).clamp(-FARTHEST, FARTHEST)
        return vectors + self.say_(self.net_(seen)[0]) @ self.out_of_

    def _scores(self, vectors: Tensor) -> Tensor:
        """Scores [n, V] of vectors [n, d] that were cleared."""
        return self.lda_._scores(vectors)

    def _scored(self, vectors: Tensor) -> Iterator[Tensor]:
        """Scores of the vectors [T, d] of one conversation, which is read as a whole, from its first position on."""
        vectors = vectors.float()
        with torch.inference_mode():
            if len(vectors) > 1:
                vectors = torch.cat([vectors[:1], self._cleared(vectors[None, 1:])[0]])
            yield from (self._scores(part) for part in vectors.split(CHUNK))
