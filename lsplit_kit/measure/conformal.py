"""Candidate sets that hold the true token 95 times in 100: the size of what an attack leaves open.

Split conformal prediction: a token's mass is the posterior probability of the other tokens that are at least as likely,
the threshold a quantile of the true tokens' masses on calibration documents. Where test tokens are exchangeable with
those, the sets hold the truth at least as often as asked for, whatever the posterior is worth. Whether they did is
counted: a coverage below what was asked for says that the texts differ.

Why the others, and not the token's own probability as well: a best guess that is sure of itself would have a mass near
1, set the threshold there, and fill the sets of all unsure tokens with candidates that hold next to no probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..card import Card
from ..errors import UnsupportedOption
from .resample import LEVEL, RESAMPLES, Interval, log_probs, mean_by_document, spread, vector

_ROUNDING = 1e-6  # sums of fp32 probabilities: equal masses are on the same side of a threshold


@dataclass(frozen=True, repr=False)
class CandidateSet(Card):
    """Sizes of conformal sets in tokens, and how often they held the truth; error and interval over documents."""

    level: float
    threshold: float
    median: float
    mean: float
    coverage: float
    error: float
    interval: Interval
    documents: int
    tokens: int

    @property
    def drifted(self) -> bool:
        """Whether the coverage's interval lies below the level: the calibration texts are not like these."""
        return self.interval.high < self.level

    def _card(self) -> tuple[str, dict[str, object]]:
        return f"Sets for {self.level:.0%} of the tokens", {
            "candidates": f"{self.median:g} in the median, {self.mean:.4g} on average",
            "hold the truth": f"{math.floor(1000 * self.coverage + 1e-9) / 10:.1f} %",
            "95 % interval": spread(self.interval),
            "measured on": f"{self.tokens} tokens of {self.documents} documents",
        }


def mass_ahead(mass: ArrayLike, log_prob: ArrayLike, rank: ArrayLike) -> np.ndarray:
    """The probability [N] of the other tokens at least as likely as the truth, of what `attacks.candidates.read` says.

    mass: with the truth's own probability, whose natural logarithm is log_prob; rank: 1 where it was the one best
    guess. Raises UnsupportedOption.
    """
    masses, own, ranks = _masses(mass), log_probs("log_prob", log_prob), vector("rank", rank)
    if not masses.shape == own.shape == ranks.shape:
        raise UnsupportedOption(f"Give the same tokens, got {masses.size} masses, {own.size}, and {ranks.size} ranks.")
    # Exactly 0 for a best guess: where enough of them are right the threshold is 0.
    return np.where(ranks <= 1, 0.0, np.clip(masses - np.exp(own), 0.0, 1.0))


def conformal_threshold(mass: ArrayLike, level: float = LEVEL) -> float:
    """The ceil(level (n + 1))-th smallest of the true tokens' masses [n] on calibration text; raises UnsupportedOption.

    Infinite, so that every token is a candidate, where n is too small: 19 masses for 95 %.
    """
    masses = _masses(mass)
    if not 0 < level < 1:
        raise UnsupportedOption(f"level lies between 0 and 1, got {level}.")
    rank = math.ceil(level * (masses.size + 1))
    return math.inf if rank > masses.size else float(np.sort(masses)[rank - 1]) + _ROUNDING


def candidate_set(
    mass: ArrayLike, size: ArrayLike, document: ArrayLike, threshold: float, level: float = LEVEL,
    resamples: int = RESAMPLES, seed: int = 0,
) -> CandidateSet:  # fmt: skip
    """Sizes and coverage of the sets on test tokens [N]; raises UnsupportedOption.

    mass: of the true tokens, the same kind as the threshold was taken of; size: how many candidates each set has
    (`attacks.candidates.set_sizes` with this threshold); level: what the threshold was for. A best guess has no mass
    ahead, so every set has one, and where more than `level` of them are right the sets hold the truth more often.
    """
    masses, sizes = _masses(mass), vector("size", size)
    if masses.shape != sizes.shape:
        raise UnsupportedOption(f"Give the same tokens, got {masses.size} masses and {sizes.size} sizes.")
    coverage = mean_by_document(masses <= threshold, document, resamples, LEVEL, seed)
    return CandidateSet(level, threshold, float(np.median(sizes)), float(sizes.mean()), *coverage)


def _masses(mass: ArrayLike) -> np.ndarray:
    masses = vector("mass", mass)
    if masses.min() < 0 or masses.max() > 1 + 1e-6:
        raise UnsupportedOption("mass takes probabilities, from 0 to 1.")
    return masses
