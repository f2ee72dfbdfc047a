"""Candidate sets that hold the true token 95 times in 100: the size of what an attack leaves open.

Split conformal prediction: a token's mass is the posterior probability of all tokens at least as likely as it, the
threshold a quantile of the true tokens' masses on calibration documents. Where test tokens are exchangeable with those,
the sets hold the truth at least as often as asked for, whatever the posterior is worth. Whether they did is counted: a
coverage below what was asked for says that the texts differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..card import Card
from ..errors import UnsupportedOption
from .resample import LEVEL, RESAMPLES, Interval, mean_by_document, spread, vector


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


def conformal_threshold(mass: ArrayLike, level: float = LEVEL) -> float:
    """The ceil(level (n + 1))-th smallest of the true tokens' masses [n] on calibration text; raises UnsupportedOption.

    Infinite, so that every token is a candidate, where n is too small: 19 masses for 95 %.
    """
    masses = _masses(mass)
    if not 0 < level < 1:
        raise UnsupportedOption(f"level lies between 0 and 1, got {level}.")
    # 0.95 x 20 is 19.000000000000004 in floats, and must not become 20.
    rank = math.ceil(level * (masses.size + 1) - 1e-9)
    return math.inf if rank > masses.size else float(np.sort(masses)[rank - 1])


def candidate_set(
    mass: ArrayLike, rank: ArrayLike, size: ArrayLike, document: ArrayLike, threshold: float, level: float = LEVEL,
    resamples: int = RESAMPLES, seed: int = 0,
) -> CandidateSet:  # fmt: skip
    """Sizes and coverage of the sets on test tokens [N]; raises UnsupportedOption.

    mass, rank: of the true tokens (`attacks.candidates.read`); size: how many candidates each set has
    (`attacks.candidates.set_sizes` with this threshold); threshold and level: see `conformal_threshold`. A set always
    has its best token, so where nearly every best guess is right it holds the truth more often than asked for.
    """
    masses, ranks, sizes = _masses(mass), vector("rank", rank), vector("size", size)
    if not masses.shape == ranks.shape == sizes.shape:
        raise UnsupportedOption(
            f"Give the same tokens, got {masses.size} masses, {ranks.size} ranks, {sizes.size} sizes."
        )
    held = (masses <= threshold) | (ranks <= 1)
    coverage = mean_by_document(held, document, resamples, LEVEL, seed)
    return CandidateSet(level, threshold, float(np.median(sizes)), float(sizes.mean()), *coverage)


def _masses(mass: ArrayLike) -> np.ndarray:
    masses = vector("mass", mass)
    if masses.min() < 0 or masses.max() > 1 + 1e-6:
        raise UnsupportedOption("mass takes probabilities, from 0 to 1.")
    return masses
