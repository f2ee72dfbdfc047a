"""Error bars when tokens of one document resemble each other: documents are drawn again, not tokens."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtrit

from ..errors import UnsupportedOption

RESAMPLES, LEVEL = 1000, 0.95
_AT_ONCE = 1 << 22  # drawn documents held at a time, so that many documents cost time and no memory


class Interval(NamedTuple):
    """Both ends of a confidence interval, in the units of the mean; not numbers where there was one document."""

    low: float
    high: float


class Mean(NamedTuple):
    """A mean over tokens, its standard error and interval over documents, and how many of each there were."""

    value: float
    error: float
    interval: Interval
    documents: int
    tokens: int


def mean_by_document(
    values: ArrayLike, document: ArrayLike, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Mean:
    """The mean of values [N] with a cluster bootstrap: documents (ids [N]) are drawn with replacement.

    The interval has two percentiles of the drawn means, the error is their standard deviation. Few documents differ
    less among themselves than all there are, so both are widened as Student's t is (Hesterberg, arXiv 1411.5279).
    The same seed and documents draw the same documents. Raises UnsupportedOption.
    """
    given, ids = vector("values", values), np.asarray(document)
    if ids.shape != given.shape:
        raise UnsupportedOption(f"There are {given.size} tokens and document ids of the shape {ids.shape}.")
    if resamples < 2 or not 0 < level < 1:
        raise UnsupportedOption(f"Give at least 2 resamples and a level between 0 and 1, got {resamples}, {level}.")
    _, place = np.unique(ids, return_inverse=True)
    count = np.bincount(place)
    # Sums of what differs from the mean: nothing is lost to cancellation, and equal values have exactly no error.
    centre = float(given.mean())
    total = np.bincount(place, weights=given - centre)
    if len(count) < 2:
        return Mean(centre, math.nan, Interval(math.nan, math.nan), 1, given.size)
    rng, drawn = np.random.default_rng(seed), np.empty(resamples)
    rows = max(1, _AT_ONCE // len(count))
    for start in range(0, resamples, rows):
        which = rng.integers(len(count), size=(min(rows, resamples - start), len(count)))
        drawn[start : start + rows] = total[which].sum(1) / count[which].sum(1)
    wider = math.sqrt(len(count) / (len(count) - 1))
    outside = float(ndtr(wider * stdtrit(len(count) - 1, (1 - level) / 2)))
    low, high = (centre + float(end) for end in np.quantile(drawn, [outside, 1 - outside]))
    return Mean(centre, wider * float(drawn.std(ddof=1)), Interval(low, high), len(count), given.size)


def spread(interval: Interval) -> str:
    """An interval as text."""
    return "unknown: one document" if math.isnan(interval.low) else f"{interval.low:.2f} to {interval.high:.2f}"


def vector(name: str, values: ArrayLike) -> np.ndarray:
    """Values as float64 [N]; raises UnsupportedOption where there are none, or one is not a finite number."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not array.size:
        raise UnsupportedOption(f"{name} takes one number for each token, got the shape {array.shape}.")
    if not np.isfinite(array).all():
        raise UnsupportedOption(
            f"{name} holds {np.count_nonzero(~np.isfinite(array))} numbers that are not finite; a posterior that rules "
            "the truth out reads minus infinity bits: mix the prior in (attacks.posterior.Posterior does)."
        )
    return array


def log_probs(name: str, values: ArrayLike) -> np.ndarray:
    """Natural-log probabilities as float64 [N], none above 0 but for rounding; raises UnsupportedOption."""
    array = vector(name, values)
    if array.max() > 1e-4:
        raise UnsupportedOption(f"{name} takes natural logarithms of probabilities, none above 0; got {array.max():g}.")
    return np.minimum(array, 0.0)
