"""How long a draft should be: the one that makes the most tokens a second, from what steps took and drafts were worth.

A step that verifies k drafts takes T(k + 1) seconds and gives E(k) = 1 + a1 + a1 a2 + ... + a1...ak tokens, where ai is
the chance that draft i is accepted when those before it were (Leviathan et al., arXiv 2211.17192, whose
E = (1 - a^(k+1)) / (1 - a) is the case of equal ai). The k of a step is the one with the most E(k) / T(k + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

FORGET = 0.98  # weight of an observation after one more of its kind
PROBE = 32  # steps without a draft after which one position is tried, to see what it costs by now


class StepTime:
    """Seconds of a step over its positions n: a + b [n > 1] + c (n - 1), by least squares that forget.

    The jump b is there because one position is a matrix-vector product and several are not.
    """

    def __init__(self, jump: float = 0.2, slope: float = 0.02) -> None:
        """jump and slope are what is believed before anything was seen, as shares of a."""
        self.prior = np.array([jump, slope])
        self.forget()

    def forget(self) -> None:
        """Nothing seen."""
        self.moments, self.sums, self.seen = np.zeros((3, 3)), np.zeros(3), 0

    def note(self, positions: int, seconds: float) -> None:
        """One step was so long; one far beyond what is known counts as three times that."""
        if self.seen > 4:
            seconds = min(seconds, 3 * self(positions))
        x = np.array([1.0, positions > 1, positions - 1])
        self.moments = FORGET * self.moments + np.outer(x, x)
        self.sums = FORGET * self.sums + seconds * x
        self.seen += 1

    def __call__(self, positions: int) -> float:
        """Seconds expected, above 0."""
        a, b, c = self.parts()
        return max(float(a + b * (positions > 1) + c * (positions - 1)), 1e-9)

    def parts(self) -> tuple[float, float, float]:
        """(a, b, c) in seconds, or before anything was seen in steps: one position, the jump to several, each more."""
        if not self.seen:
            return 1.0, *self.prior
        # the prior says b = jump a and c = slope a, each with the weight of some observations
        pull = np.zeros((3, 3))
        for i, share, weight in ((1, self.prior[0], 1.0), (2, self.prior[1], 4.0)):
            row = np.zeros(3)
            row[0], row[i] = -share, 1.0
            pull += weight * np.outer(row, row)
        a, b, c = np.linalg.solve(self.moments + pull + 1e-9 * np.eye(3), self.sums)
        return max(0.0, float(a)), max(0.0, float(b)), max(0.0, float(c))


class Odds:
    """The chance that a draft of some kind is accepted: a share of successes that starts at a guess and forgets."""

    def __init__(self, guess: Callable[[tuple[Any, ...]], float], weight: float = 6.0) -> None:
        self.guess, self.weight = guess, weight
        self.counts: dict[tuple[Any, ...], tuple[float, float]] = {}

    def __call__(self, kind: tuple[Any, ...]) -> float:
        """Chance in (0, 1)."""
        hits, tries = self.counts.get(kind, (0.0, 0.0))
        return (hits + self.weight * self.guess(kind)) / (tries + self.weight)

    def note(self, kind: tuple[Any, ...], accepted: bool) -> None:
        """One draft of this kind was compared with the model's own token."""
        hits, tries = self.counts.get(kind, (0.0, 0.0))
        self.counts[kind] = (FORGET * hits + accepted, FORGET * tries + 1)


def expected(odds: Sequence[float]) -> float:
    """E(k): tokens that a step with these drafts gives on average."""
    total = reach = 1.0
    for chance in odds:
        reach *= chance
        total += reach
    return total


class Pace:
    """Chooses the length of every draft from what the steps so far took and gave."""

    def __init__(self) -> None:
        self.time = StepTime()
        self.plain = 0  # steps in a row without a draft

    def length(self, odds: Sequence[float]) -> int:
        """How many of these drafts to send; now and then one that does not pay, so that its cost stays known."""
        if not odds or not self.time.seen:  # the first step goes alone, so that it is known what one position takes
            return 0
        worth = [expected(odds[:k]) / self.time(k + 1) for k in range(len(odds) + 1)]
        best = max(range(len(worth)), key=worth.__getitem__)
        return 1 if best == 0 and self.plain >= PROBE else best

    def note(self, drafts: int, seconds: float) -> None:
        """A step with so many drafts took so many seconds."""
        self.time.note(drafts + 1, seconds)
        self.plain = 0 if drafts else self.plain + 1
