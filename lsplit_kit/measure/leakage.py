"""How many bits per token an attack on hidden tensors reads: leak = H0 - CE.

CE is the cross-entropy of the attacker's posterior for the true tokens, H0 that of the prior it had without the wire:
usable information in the sense of arXiv 2002.10689, estimated as the difference of two cross-entropies as arXiv
1811.04251 recommends. Nothing here sees a model or a tensor: what an attack hands over are arrays with one number for
each token that counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..card import Card
from ..errors import UnsupportedOption
from .resample import LEVEL, RESAMPLES, Interval, log_probs, mean_by_document, spread, vector

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Leak(Card):
    """What an attack reads, in bits per token; error and interval are those of `bits`, over documents."""

    h0: float
    ce: float
    bits: float
    error: float
    interval: Interval
    documents: int
    tokens: int

    @property
    def share(self) -> float:
        """Of the bits that were there to be read (H0), the part that was."""
        return self.bits / self.h0 if self.h0 else math.nan

    @property
    def candidates(self) -> float:
        """2^CE: among so many equally likely tokens the attacker is still undecided, on a geometric average."""
        return float(2**self.ce)

    def _card(self) -> tuple[str, dict[str, object]]:
        return f"Leak of {self.bits:.2f} bits a token", {
            "95 % interval": spread(self.interval),
            "prior, H0": f"{self.h0:.2f} bits",
            "posterior, CE": f"{self.ce:.2f} bits, {self.candidates:.4g} candidates",
            # Rounded down: a share just below 99 % is not printed as 99 %.
            "share": f"{math.floor(1000 * self.share + 1e-9) / 10:.1f} %" if self.h0 else "of nothing",
            "measured on": f"{self.tokens} tokens of {self.documents} documents",
        }


@dataclass(frozen=True, repr=False)
class Difference(Card):
    """How many bits per token one attack reads more than another on the same tokens; error, interval over documents."""

    bits: float
    error: float
    interval: Interval
    documents: int
    tokens: int

    def _card(self) -> tuple[str, dict[str, object]]:
        return f"{self.bits:+.2f} bits a token", {
            "95 % interval": spread(self.interval),
            "measured on": f"{self.tokens} tokens of {self.documents} documents",
        }


def leak_bits(
    log_prob: ArrayLike, prior_log_prob: ArrayLike, document: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Leak:
    """H0 - CE in bits per token, with its 95 % interval over documents; raises UnsupportedOption.

    log_prob, prior_log_prob: natural-log probabilities [N] that the posterior and the prior gave the true tokens;
    document: ids [N]. The posterior must have been fitted on other documents. On natural text H0 is itself a model's
    figure, so this is what that attacker can use, not a bound on mutual information; on canaries it is one
    (`canary_leak`).
    """
    posterior, prior = log_probs("log_prob", log_prob), log_probs("prior_log_prob", prior_log_prob)
    _same_tokens(log_prob=posterior, prior_log_prob=prior)
    mean = mean_by_document((posterior - prior) / math.log(2), document, resamples, LEVEL, seed)
    h0, ce = (-float(x.mean()) / math.log(2) for x in (prior, posterior))
    return Leak(h0, ce, *mean)


def leak_difference(
    log_prob: ArrayLike, other: ArrayLike, document: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Bits per token that an attack reads more than `other` on the same tokens [N]; raises UnsupportedOption.

    Paired: what makes a document hard for both cancels, and so does the prior. The interval is narrower than the two
    leaks' own.
    """
    mine, theirs = log_probs("log_prob", log_prob), log_probs("other", other)
    _same_tokens(log_prob=mine, other=theirs)
    return Difference(*mean_by_document((mine - theirs) / math.log(2), document, resamples, LEVEL, seed))


def leak_table(
    log_prob: ArrayLike, prior_log_prob: ArrayLike, document: ArrayLike, by: Mapping[str, ArrayLike],
    right: ArrayLike | None = None, resamples: int = RESAMPLES, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """The leak of all tokens and of each group, a row each; raises UnsupportedOption.

    by: for example {"position": position_class, "frequency": frequency_bucket}, values [N]. With right [N] there is a
    column of token accuracy. A group of one document has no interval.
    """
    import pandas as pd

    posterior, prior = log_probs("log_prob", log_prob), log_probs("prior_log_prob", prior_log_prob)
    _same_tokens(log_prob=posterior, prior_log_prob=prior)
    ids = np.asarray(document)
    hits = None if right is None else vector("right", right)
    if hits is not None:
        _same_tokens(log_prob=posterior, right=hits)
    groups = [("all", "", np.ones(len(posterior), bool))]
    for name, values in by.items():
        labels = np.asarray(values)
        if labels.shape != posterior.shape:
            raise UnsupportedOption(f"{name!r} has the shape {labels.shape}, the tokens {posterior.shape}.")
        groups += [(name, label, labels == label) for label in np.unique(labels).tolist()]
    rows = []
    for name, label, where in groups:
        leak = leak_bits(posterior[where], prior[where], ids[where], resamples, seed)
        row = {"by": name, "group": label, "H0": leak.h0, "CE": leak.ce, "bits": leak.bits}
        row |= {"low": leak.interval.low, "high": leak.interval.high, "share": leak.share}
        row |= {"candidates": leak.candidates} | ({} if hits is None else {"accuracy": float(hits[where].mean())})
        rows.append(row | {"tokens": leak.tokens, "documents": leak.documents})
    return pd.DataFrame(rows).set_index(["by", "group"])


def matched_log_prob(right: ArrayLike, prior_log_prob: ArrayLike, calibration: ArrayLike | None = None) -> np.ndarray:
    """Natural-log probability [N] of the true token under a matcher that names tokens and no probabilities.

    Its guess stands for a posterior: (1 - eps) on the token it names and eps times the prior, with eps by Laplace's
    rule, (wrong + 1) / (tokens + 2). calibration: `right` of held-out tokens to count in; without it the same tokens
    are counted, which flatters by one fitted number. Raises UnsupportedOption.
    """
    hits, prior = vector("right", right), log_probs("prior_log_prob", prior_log_prob)
    _same_tokens(right=hits, prior_log_prob=prior)
    counted = hits if calibration is None else vector("calibration", calibration)
    for flags in (hits, counted):
        if not np.isin(flags, (0, 1)).all():
            raise UnsupportedOption("right takes True or False for each token.")
    eps = (np.count_nonzero(counted == 0) + 1) / (counted.size + 2)
    return np.log((1 - eps) * hits + eps * np.exp(prior))


def _same_tokens(**named: np.ndarray) -> None:
    """Raises UnsupportedOption unless all arrays have one length."""
    if len({array.shape for array in named.values()}) > 1:
        sizes = ", ".join(f"{name} {array.size}" for name, array in named.items())
        raise UnsupportedOption(f"Give the same tokens everywhere, got {sizes}.")
