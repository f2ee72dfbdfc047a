"""Secrets drawn uniformly from a known list: where bits read are a bound on information, not a model's opinion.

Of M equally likely secrets the entropy is log2 M exactly, and no posterior has a cross-entropy below H(X|Z). So
log2 M - CE is at most the mutual information of secret and wire, whatever the attack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..card import Card
from ..errors import UnsupportedOption
from .resample import LEVEL, RESAMPLES, Interval, mean_by_document, spread


@dataclass(frozen=True, repr=False)
class CanaryLeak(Card):
    """Bits per secret: the entropy of the draw, what was read, and what the wire holds at least.

    lower: with confidence `level`, mutual information is no less (Hoeffding; it assumes nothing but independent draws).
    error, interval: of `bits`, by bootstrap.
    """

    entropy: float
    bits: float
    lower: float
    level: float
    error: float
    interval: Interval
    secrets: int

    @property
    def share(self) -> float:
        """Of a secret's entropy the part that was read."""
        return self.bits / self.entropy

    def _card(self) -> tuple[str, dict[str, object]]:
        return f"{self.bits:.2f} of {self.entropy:.2f} bits a secret", {
            "95 % interval": spread(self.interval),
            f"at least, {self.level:.0%} sure": f"{max(self.lower, 0.0):.2f} bits of mutual information",
            "measured on": f"{self.secrets} secrets",
        }


def canary_leak(
    log_prob: ArrayLike, bits: ArrayLike, eps: float = 0.01, level: float = LEVEL, resamples: int = RESAMPLES,
    seed: int = 0,
) -> CanaryLeak:  # fmt: skip
    """A lower bound on the mutual information of secret and wire, in bits a secret; raises UnsupportedOption.

    log_prob: natural-log probability [N] that the attack gave each whole secret (of several tokens: their sum), minus
    infinity allowed; bits: log2 M, a number or one for each secret. Secrets are independent draws, one a prompt, and
    none of them was used to fit the attack.

    The posterior is mixed with the draw itself, (1 - eps) q + eps / M, so one secret adds between log2 eps and log2 M
    bits. For N such terms Hoeffding (1963) gives mean - sqrt(ln(1 / (1 - level)) sum of (log2 M - log2 eps)^2 / 2) / N.
    """
    given, entropy = np.asarray(log_prob, np.float64), np.asarray(bits, np.float64)
    if given.ndim != 1 or not given.size or np.isnan(given).any() or given.max() > 1e-4:
        raise UnsupportedOption("log_prob takes one natural-log probability for each secret, none above 0.")
    if entropy.shape not in ((), given.shape) or not (np.isfinite(entropy).all() and entropy.min() > 0):
        raise UnsupportedOption("bits takes log2 of how many secrets there were to draw from, a number above 0.")
    if not (0 < eps < 1 and 0 < level < 1):
        raise UnsupportedOption(f"eps and level lie between 0 and 1, got {eps}, {level}.")
    entropy = np.broadcast_to(entropy, given.shape)
    mixed = np.logaddexp(np.minimum(given, 0.0) + math.log1p(-eps), math.log(eps) - entropy * math.log(2))
    mean = mean_by_document(entropy + mixed / math.log(2), np.arange(given.size), resamples, LEVEL, seed)
    width = entropy - math.log2(eps)
    slack = math.sqrt(-math.log(1 - level) * float(width @ width) / 2) / given.size
    return CanaryLeak(
        float(entropy.mean()), mean.value, mean.value - slack, level, mean.error, mean.interval, given.size
    )
