"""A learned inverter that reads a whole conversation: a linear map, corrected by a small recurrent net."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..wire.view import View
from .knowledge import Knowledge
from .posterior import fit_posterior
from .probe import CHUNK, HELD, Probe
from .study import WINDOW, Place, Study, counted, states, study

BATCH, NEGATIVES = 8, 1024  # windows in a step; tokens that none of them holds, drawn for each
COOL = 8.0  # a linear map on texts it was fitted to is surer than on others by this factor
FARTHEST = 8.0  # standard deviations at which an outlier is cut off


class SequenceInverter(Probe):
    """e_t = W h_t + b + GRU(h_1 .. h_t), then -|e_t - E_v|^2 for every token v (SIP of BiSR, arXiv 2409.00960).

    W and b are a ridge regression; the net learns what the tokens before leave in a vector. Its loss tells the tokens
    of a batch apart, and others of the vocabulary, by their embeddings. It learns on the attacker's texts and on
    `drawn` windows of random tokens, for what texts leave out. The first position of a conversation, where nothing
    stands before, is read by W and b alone. penalty: a share of the mean diagonal of the vectors' covariance.
    """

    requires: ClassVar[tuple[str, ...]] = (*Probe.requires, "embeddings", "head weights or queries")

    def __init__(
        self, hidden: int = 256, epochs: int = 2, drawn: int = 400,
        rate: float = 2e-3, penalty: float = 1e-3, seed: int = 0,
    ) -> None:  # fmt: skip
        self.hidden, self.epochs, self.drawn = hidden, epochs, drawn
        self.rate, self.penalty, self.seed = rate, penalty, seed

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self.place_ = Place.of(view, knowledge, self.reads)
        learned = study(knowledge, self.place_)
        self.vocabulary_ = len(knowledge.tokenizer)
        self.log_prior_ = counted(learned.tokens, self.vocabulary_)
        self._learn(learned, knowledge)
        held, tokens = (part[: -(-HELD // part.shape[1])] for part in learned.windows[2:])
        with torch.inference_mode():
            points = self._points(held).flatten(0, 1)
            scores = (self._scores(part) for part in points.split(CHUNK))
            self.posterior_ = fit_posterior(scores, self.log_prior_, tokens.flatten())
        if knowledge.queries is not None:
            self.cost_.queries += len(learned.tokens) + len(learned.held_tokens) + self.drawn * WINDOW

    def _learn(self, learned: Study, knowledge: Knowledge) -> None:
        rows = knowledge.model.get_input_embeddings().weight.detach().float()[: self.vocabulary_]
        self.rows_, self.half_ = rows, rows.square().sum(-1) / 2
        vectors, tokens = learned.windows[:2]
        if self.drawn:
            draw = torch.Generator().manual_seed(self.seed)
            ids = torch.randint(self.vocabulary_, (self.drawn, WINDOW), generator=draw)
            found = self.place_.through(states(knowledge, self.place_.depth, ids, "hidden vectors of random tokens"))
            vectors, tokens = torch.cat([vectors, found[:, 1:]]), torch.cat([tokens, ids[:, 1:]])
        x, y = vectors.flatten(0, 1).double(), rows[tokens.flatten()].double()
        self.centre_, self.middle_ = x.mean(0).float(), y.mean(0).float()
        x, y = x - x.mean(0), y - y.mean(0)
        normal = x.T @ x
        self.spread_ = (normal.diagonal() / len(x)).sqrt().clamp_min(1e-9).float()
        normal.diagonal().add_(self.penalty * normal.diagonal().mean())
        weight = torch.linalg.solve(normal, x.T @ y)
        self.weight_ = weight.float()
        error = float((x @ weight - y).square().mean())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self._train(vectors, tokens, error)

    def _train(self, vectors: Tensor, tokens: Tensor, error: float) -> None:
        width = vectors.shape[-1]
        self.unit_ = float(self.rows_.std())
        self.net_ = nn.GRU(2 * width, self.hidden, batch_first=True)
        self.out_ = nn.Linear(self.hidden, width)
        nn.init.zeros_(self.out_.weight)  # it begins as the linear map
        nn.init.zeros_(self.out_.bias)
        self.scale_ = nn.Parameter(torch.tensor(-math.log(COOL * error)))
        parts = [*self.net_.parameters(), *self.out_.parameters(), self.scale_]
        batches = max(1, len(vectors) // BATCH)
        steps = self.epochs * batches
        adam = torch.optim.Adam(parts, lr=self.rate)
        pace = torch.optim.lr_scheduler.OneCycleLR(adam, self.rate, total_steps=steps + 1, pct_start=0.1)
        orders = (torch.randperm(len(vectors)).split(BATCH)[:batches] for _ in range(self.epochs))
        some = (part for order in orders for part in order)
        for part in tqdm(some, desc="inverter", total=steps, leave=False, disable=steps < 100):
            true = tokens[part].flatten()
            drawn = torch.randint(self.vocabulary_, (NEGATIVES,))
            among, right = torch.cat([true, drawn]).unique(return_inverse=True)
            loss = F.cross_entropy(self._near(self._points(vectors[part]).flatten(0, 1), among), right[: len(true)])
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parts, 1.0)
            adam.step()
            pace.step()

    def _points(self, vectors: Tensor) -> Tensor:
        """Where the embeddings must be [B, T, d], of vectors [B, T, d] of which each knows those before it."""
        away = vectors - self.centre_
        line = away @ self.weight_ + self.middle_
        seen = torch.cat([(away / self.spread_).clamp(-FARTHEST, FARTHEST), line / self.unit_], dim=-1)
        return line + self.unit_ * self.out_(self.net_(seen)[0])

    def _near(self, points: Tensor, among: Tensor | slice) -> Tensor:
        return (points @ self.rows_[among].T - self.half_[among]) * self.scale_.exp()

    def _scores(self, vectors: Tensor) -> Tensor:
        """Scores [n, V] of the points [n, d] that `_points` finds."""
        return self._near(vectors, slice(None))

    def _scored(self, vectors: Tensor) -> Iterator[Tensor]:
        """Scores of the vectors [T, d] of one conversation, which is read as a whole, from its first position on."""
        vectors = vectors.float()
        with torch.inference_mode():
            points = (vectors[:1] - self.centre_) @ self.weight_ + self.middle_
            if len(vectors) > 1:
                points = torch.cat([points, self._points(vectors[None, 1:])[0]])
            yield from (self._scores(part) for part in points.split(CHUNK))
