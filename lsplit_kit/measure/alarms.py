"""Three checks of a leakage measurement itself. One that fails says: do not believe the bits.

Each returns a verdict with its numbers and leaves the rest to the caller: `assert` it, or print it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from numpy.typing import ArrayLike

from ..card import Card
from ..errors import UnsupportedOption
from .leakage import Leak, leak_difference
from .resample import RESAMPLES

ERRORS = 2.0  # standard errors that chance is given
NEARLY_ALL = 0.98  # share of H0 that is read where the wire is the embedding itself
_ROUNDING = 1e-4  # bits: posteriors are computed in fp32


@dataclass(frozen=True, repr=False)
class Verdict(Card):
    """Whether a check holds (true or false as a condition), why, and the bits that it compared."""

    check: str
    holds: bool
    why: str
    numbers: dict[str, float]

    def __bool__(self) -> bool:
        return self.holds

    def _card(self) -> tuple[str, dict[str, object]]:
        numbers = {name: f"{value:.3f}" for name, value in self.numbers.items()}
        return f"{self.check}: {'holds' if self.holds else 'ALARM'}", {"why": self.why, **numbers}


def shuffled_wire(leak: Leak) -> Verdict:
    """A wire whose vectors were shuffled over positions says nothing: bits within 2 standard errors of 0.

    The attack's posterior has to be fitted anew on a shuffled wire, as it is on every other. Raises UnsupportedOption.
    """
    error = _known(leak.error)
    bound = ERRORS * error + _ROUNDING
    why = "within chance of 0"
    if leak.bits > bound:
        why = "reads bits where there are none: the truth reaches the attack by another way than the wire"
    elif leak.bits < -bound:
        why = "worse than the prior alone: its posterior was not fitted to this wire, or is not calibrated"
    numbers = {"bits": leak.bits, "standard error": error}
    return Verdict("shuffled wire", abs(leak.bits) <= bound, why, numbers)


def depth_zero(leak: Leak) -> Verdict:
    """With no layer in the head the wire is the embedding: at least 98 % of H0 is read."""
    holds = leak.bits >= NEARLY_ALL * leak.h0
    why = (
        "nearly all is read" if holds else "an embedding gives its token away: the attack or its calibration is broken"
    )
    return Verdict("depth 0", holds, why, {"bits": leak.bits, "H0": leak.h0, "least": NEARLY_ALL * leak.h0})


def monotone(
    levels: Mapping[object, ArrayLike], document: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> Verdict:
    """More noise, or a smaller family inside a larger one, reads no more: no rise beyond 2 standard errors.

    levels: by name, natural-log probabilities [N] of the same true tokens, from the least noise to the most (or from
    the largest family to the smallest). Every two levels are compared, in pairs of tokens. A failure means that the
    attack with less noise is too weak, not that noise leaks. Raises UnsupportedOption.
    """
    if len(levels) < 2:
        raise UnsupportedOption(f"Give at least two levels, from the least noise to the most, got {len(levels)}.")
    rises = []
    for less, more in combinations(levels, 2):
        apart = leak_difference(levels[more], levels[less], document, resamples, seed)
        rises.append((apart.bits - ERRORS * _known(apart.error), less, more, apart))
    beyond, less, more, worst = max(rises, key=lambda found: found[0])
    why = f"no rise beyond chance; from {less} to {more} it comes nearest to one"
    if beyond > _ROUNDING:
        why = f"reads more at {more} than at {less}: the attack at {less} is too weak, noise does not leak"
    numbers = {"rise": worst.bits, "standard error": worst.error}
    return Verdict("monotone", beyond <= _ROUNDING, why, numbers)


def _known(error: float) -> float:
    if not error >= 0:
        raise UnsupportedOption("One document has no standard error: give tokens of at least two.")
    return error
