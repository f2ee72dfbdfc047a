"""What no attack can exceed, and what an accuracy says about information.

An attack that reads little proves nothing: another may read more. A claim about a defence needs an upper bound on
information, and there are two here: the bits on the wire, and the capacity of noise that somebody adds on purpose.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UnsupportedOption
from .resample import vector


def min_entropy_leakage(accuracy: float, prior_accuracy: float) -> float:
    """log2(accuracy / prior accuracy) bits: what the wire is worth to an attacker with one guess (G. Smith, 2009).

    Both are shares of tokens, with the wire and without it (the share of the most frequent token). Minus infinity where
    nothing was right. Raises UnsupportedOption.
    """
    _share("accuracy", accuracy)
    _share("prior_accuracy", prior_accuracy)
    if not prior_accuracy:
        raise UnsupportedOption("prior_accuracy is 0: a guesser without the wire is right now and then.")
    return math.log2(accuracy / prior_accuracy) if accuracy else -math.inf


def fano_entropy(accuracy: float, vocabulary: int) -> float:
    """The most that H(X|Z) can be, in bits, when an attack names the right token so often; raises UnsupportedOption.

    Fano: H(X|Z) <= h(1 - a) + (1 - a) log2(V - 1). Needs no probabilities. 0 at a = 1, log2 V at a = 1 / V. Of a share
    counted on a sample it is a point estimate; put in the low end of the share's interval for a bound with confidence.
    """
    _share("accuracy", accuracy)
    _vocabulary(vocabulary)
    wrong = 1 - accuracy
    return sum(-p * math.log2(p) for p in (accuracy, wrong) if p) + wrong * math.log2(vocabulary - 1)


def fano_accuracy(capacity: float, h0: float, vocabulary: int) -> float:
    """The best accuracy of any attack where at most `capacity` bits per token cross; raises UnsupportedOption.

    H(X|Z) >= h0 - capacity, put into Fano's inequality and solved for the accuracy by bisection. h0: entropy of a token
    given those before it. It is exact for uniform canaries; a language model's cross-entropy is never below it, so the
    result is an estimate there, not a certificate, and the unigram entropy is of no use.
    """
    _vocabulary(vocabulary)
    if capacity < 0 or not 0 <= h0 <= math.log2(vocabulary) + 1e-9:
        raise UnsupportedOption(
            f"Give capacity of 0 bits or more and h0 of 0 to log2 V = {math.log2(vocabulary):.2f} bits, "
            f"got {capacity:g} and {h0:g}."
        )
    left = h0 - capacity
    if left <= 0:
        return 1.0
    low, high = 1 / vocabulary, 1.0  # Fano's right side falls between them, from log2 V to 0
    while high - low > 1e-15 and low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if fano_entropy(middle, vocabulary) >= left else (low, middle)
    return high


def codec_capacity(payload: ArrayLike) -> float:
    """Bits per token that payloads of so many bytes per token can carry: the ceiling that holds whatever the attack.

    payload: bytes, a number or one for each token that crosses alone, in one direction; for an observer of both, such
    as the cloud, add the two capacities. Where sizes differ the size tells something as well, at most the entropy of a
    geometric law with this mean. Control fields and timing, which tell lengths, are not in it. Raises
    UnsupportedOption.
    """
    sizes = vector("payload", np.atleast_1d(payload))
    if sizes.min() < 0:
        raise UnsupportedOption("payload takes bytes, 0 or more.")
    mean = float(sizes.mean())
    told = math.log2(mean + 1) + mean * math.log2(1 + 1 / mean) if np.ptp(sizes) else 0.0
    return 8 * mean + told


def gaussian_capacity(covariance: ArrayLike, sigma: float) -> float:
    """Bits per vector that cross Gaussian noise, 1/2 sum log2(1 + eigenvalue / sigma^2); raises UnsupportedOption.

    covariance: of the hidden vectors [d, d]; sigma: standard deviation of independent noise on every channel, in the
    vectors' own units. An upper bound on what vectors of this covariance tell through this noise (Shannon 1948), for
    noise drawn freshly for each vector; too low where the covariance is estimated from fewer vectors than channels.
    """
    matrix = np.asarray(covariance, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise UnsupportedOption(f"covariance takes a finite square matrix, got the shape {matrix.shape}.")
    if not sigma > 0:
        raise UnsupportedOption(f"sigma is above 0, got {sigma:g}: without noise there is no such bound.")
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    if values[0] < -1e-6 * max(abs(values[-1]), 1e-300):
        raise UnsupportedOption("covariance has a negative eigenvalue, so it is none.")
    return float(np.log2(1 + values.clip(min=0) / sigma**2).sum() / 2)


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UnsupportedOption(f"{name} takes a share of tokens, from 0 to 1, got {value:g}.")


def _vocabulary(size: int) -> None:
    if size < 2:
        raise UnsupportedOption(f"A vocabulary has at least 2 tokens, got {size}.")
