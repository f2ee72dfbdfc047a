"""From an attack's scores to a calibrated posterior: the probabilities without which bits mean nothing.

Scores say which token fits best and seldom how sure that is. Read as log probabilities they are far too sure, and one
confident mistake costs what many tokens bring. So the posterior is
(1 - eps) softmax(tau score + weight log p) + eps p, with three numbers fitted to held-out text. Vocabularies are large:
everything goes in chunks of rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedOption
from .candidates import Read, of_truth, read

# tau = 0 with weight 1 is the prior itself. An attack may always ignore the wire ("optional ignorance", arXiv
# 2002.10689), so a wire that says nothing reads 0 bits and not fewer.
TAUS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
EPSILONS = (1e-3, 0.01, 0.03, 0.1)
WEIGHTS = (1.0, 0.5, 0.25, 0.0)
ROWS = 64  # of 49,152 floats: 13 MB, and a few such at a time
_LEAST = -60.0  # below the best token no probability is followed further: e^-60, and fp32 gets slow at e^-87
_FARTHEST = -1e30  # stands for minus infinity, which times tau = 0 would be no number

Rows: TypeAlias = Tensor | np.ndarray


@dataclass(frozen=True)
class Posterior:
    """(1 - eps) softmax(tau score + weight log p) + eps p, for unnormalised scores that leave the prior p out."""

    tau: float
    eps: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.tau < 0 or self.weight < 0 or not 0 < self.eps < 1:
            raise UnsupportedOption(f"tau and weight are 0 or more and eps lies between 0 and 1, got {self}.")

    def log_probs(self, scores: Rows | Iterable[Rows], log_prior: Rows, rows: int = ROWS) -> Iterator[Tensor]:
        """Natural-log probabilities, fp32 [n, V] chunk by chunk; raises UnsupportedOption.

        scores: [N, V], or an iterable of [n, V] of which one at a time is held; log_prior: [V]. A token that the prior
        rules out (minus infinity) the posterior rules out too.
        """
        prior = _prior(log_prior)
        for chunk in _chunks(scores, prior, rows):
            logits = chunk.mul_(self.tau).clamp_(min=_LEAST)
            if self.weight:
                logits.add_(prior, alpha=self.weight)
            logits.masked_fill_(prior.isneginf(), -math.inf)
            logits.sub_(logits.logsumexp(1, keepdim=True)).add_(math.log1p(-self.eps))
            yield torch.logaddexp(logits, prior + math.log(self.eps), out=logits)

    def read(self, scores: Rows | Iterable[Rows], log_prior: Rows, truth: Rows, rows: int = ROWS) -> Read:
        """Log probability, rank and mass of the true tokens [N]; raises UnsupportedOption."""
        return read(self.log_probs(scores, log_prior, rows), truth)


def fit_posterior(
    scores: Rows | Iterable[Rows], log_prior: Rows, truth: Rows, taus: Sequence[float] = TAUS,
    epsilons: Sequence[float] = EPSILONS, weights: Sequence[float] = WEIGHTS, rows: int = ROWS,
) -> Posterior:  # fmt: skip
    """The tau, eps and weight of least cross-entropy on held-out tokens; raises UnsupportedOption.

    scores: [N, V], or an iterable of [n, V], read once; log_prior: [V]; truth: ids [N]. Held out means: neither the
    text that the scores were fitted to nor the text that bits are reported for.
    """
    prior, tokens = _prior(log_prior), torch.as_tensor(truth).long()
    # A power of the prior in each row: the sums over the vocabulary for all weights are one product of matrices.
    powers = torch.stack([(w * prior).exp() if w else (~prior.isneginf()).float() for w in weights])
    weigh = torch.tensor(list(weights), dtype=torch.float64)[:, None]
    found, start = [], 0
    for chunk in _chunks(scores, prior, rows):
        ids = tokens[start : (start := start + len(chunk))]
        if len(ids) < len(chunk):
            break
        true, scaled = of_truth(chunk, ids).double(), torch.empty_like(chunk)
        of_tau = []
        for tau in taus:
            sums = powers @ torch.mul(chunk, tau, out=scaled).clamp_(min=_LEAST).exp_().T
            of_tau.append(tau * true + weigh * prior[ids].double() - sums.double().clamp_(min=1e-38).log_())
        found.append(torch.stack(of_tau))
    if not found or start != len(tokens):
        raise UnsupportedOption(f"There are {len(tokens)} true tokens for {start} or more rows of scores.")
    if prior[tokens].isneginf().any():
        raise UnsupportedOption("The prior rules out tokens that are true: smooth it, (count + 0.1) / sum.")
    fitted, base = torch.cat(found, 2), prior[tokens].double()  # [taus, weights, N]
    best = min(
        (-float(torch.logaddexp(fitted[i, j] + math.log1p(-eps), base + math.log(eps)).mean()), k, i, j)
        for i in range(len(taus))
        for j in range(len(weights))
        for k, eps in enumerate(epsilons)
    )
    return Posterior(taus[best[2]], epsilons[best[1]], weights[best[3]])


def _prior(log_prior: Rows) -> Tensor:
    """The prior as fp32 [V]; raises UnsupportedOption unless its probabilities sum to 1."""
    prior = torch.as_tensor(log_prior)
    total = float(prior.double().exp().sum()) if prior.ndim == 1 else math.nan
    if not abs(total - 1) < 1e-3:
        raise UnsupportedOption(f"log_prior takes natural logarithms [V] whose probabilities sum to 1, not {total:g}.")
    return prior.float()


def _chunks(scores: Rows | Iterable[Rows], prior: Tensor, rows: int) -> Iterator[Tensor]:
    """Copies of the scores, fp32 [n, V], each row's best possible token at 0; raises UnsupportedOption."""
    wholes = (scores,) if isinstance(scores, (Tensor, np.ndarray)) else scores
    for part in (whole[i : i + rows] for whole in wholes for i in range(0, len(whole), rows)):
        chunk = torch.as_tensor(part)
        if chunk.ndim != 2 or chunk.shape[1] != len(prior):
            raise UnsupportedOption(f"scores take [tokens, {len(prior)}] as the prior does, got {tuple(chunk.shape)}.")
        possible = chunk.masked_fill(prior.isneginf(), -math.inf)
        chunk = possible.sub_(possible.amax(1, keepdim=True)).float()
        if chunk.isnan().any():  # of a row with NaN, with plus infinity, or with minus infinity alone
            raise UnsupportedOption("scores hold NaN or plus infinity, or a row rules every token out.")
        yield chunk.clamp_(min=_FARTHEST)
