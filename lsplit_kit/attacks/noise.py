"""Fresh noise on the wire: how large it is, as the text read so far shows, and when a candidate is likely enough.

Noise moves h away from F(v) by about as much at every position, and away from every other candidate by more: the
likeliest is the maximum of log p(v | prefix) - |F(v) - h|^2 / 2 s^2, and s shows in what was read before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ENOUGH, MOST, FAR = 64, 1024, 4096  # candidates: before any is believed; until the likeliest is; if none is near enough
FEW = 256  # candidates once the text so far cannot be trusted
SURE = math.log(1000)  # the likeliest has to be so much likelier than the next, in nats
LEFT = 0.1  # of the prior: where more of it was not tried, no candidate is the right one yet
OFTEN, TAIL = 1.5, 3.0  # standard deviations of the length of noise: most errors are shorter, hardly one is longer
MARGIN = 1.3  # of an error that is hardly exceeded, within which a candidate counts as near enough
DENSE = 0.1  # of |h|: where noise hides so much, a neighbour that was not tried might be as near


class Noise:
    """The length of the error |F - h|, learnt position by position; either it is steady, or it goes with |h|."""

    def __init__(self) -> None:
        self.errors, self.lengths = torch.empty(0), torch.empty(0)
        self.relative, self.usual, self.high = True, 0.0, 0.0

    def hear(self, errors: Tensor, lengths: Tensor) -> None:
        """Known text [n] came with these errors |F - h|, by vectors of these lengths |h|."""
        self.errors = torch.cat([self.errors, errors.clamp_min(1e-12)])
        self.lengths = torch.cat([self.lengths, lengths.clamp_min(1e-12)])
        shares = self.errors / self.lengths
        # one error says nothing of this, and codecs are commoner than noise
        self.relative = len(shares) < 2 or bool(_varies(shares) < _varies(self.errors))
        seen = shares if self.relative else self.errors
        self.usual, self.high = float(seen.median()), float(seen.quantile(0.95))

    def at(self, h: Tensor) -> float:
        """The usual length of the error of h [d], never 0."""
        return max(1e-12, self.usual * float(h.norm()) if self.relative else self.usual)

    def level(self, h: Tensor) -> float | None:
        """The standard deviation on each channel of h [d], to a fifth; None where it is too little to matter."""
        length = self.at(h)
        if length < DENSE * float(h.norm()):
            return None
        return 2.0 ** (round(4 * math.log2(length / math.sqrt(len(h)))) / 4)

    def found(self, tried: Tensor, h: Tensor, beliefs: Tensor, count: int, left: float, before: bool) -> bool:
        """Whether the likeliest of the vectors tried [n, d] is h [d]; False while another might be.

        beliefs: log posteriors [n] of these, but for a constant; count: how many were tried in all; left: how likely
        it was, before h was heard, that it is none of them; before: whether the likeliest was so when there were fewer.
        """
        usual, high = self.at(h), self.high / self.usual
        unit = 1 / math.sqrt(2 * len(h))  # the spread of the length of Gaussian noise, a share of it
        often, most = (1 + OFTEN * unit, 1 + TAIL * unit) if high <= 1 + TAIL * unit else (high, MARGIN * high)
        away = float((tried[beliefs.argmax()] - h).norm()) / usual
        if count < ENOUGH or away > most:
            return False
        hidden = usual * math.sqrt(most**2 - 1)  # how far from the right one a wrong one is near enough
        settled = (before and left < LEFT and away < often) or hidden < DENSE * float(h.norm())
        return (settled and clear(beliefs)) or count >= MOST


def clear(beliefs: Tensor) -> bool:
    """Whether the likeliest is well ahead of the next; beliefs: log posteriors [n] but for a constant."""
    best = beliefs.topk(min(2, len(beliefs))).values
    return len(best) < 2 or bool(best[0] - best[1] > SURE)


def _varies(lengths: Tensor) -> Tensor:
    """How much lengths differ from each other, in nats; one that is far off counts little."""
    logs = lengths.log()
    return (logs - logs.median()).abs().mean()
