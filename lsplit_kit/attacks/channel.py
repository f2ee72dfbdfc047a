"""When a candidate's vector is the one that crossed: exactly, after the same codec, or within a noise."""

from __future__ import annotations

import torch
from torch import Tensor

from .knowledge import Knowledge
from .study import WINDOW, Place, shelved, states, windows

SAMPLE, NEAR = 16, 4  # rows of own text that show what a codec does; candidates that are put through it
FLIPS, MARGIN = 0.25, 1.3  # shares of the usual and of the largest error within which a candidate counts as found
ENOUGH, MANY = (
    64,
    1024,
)  # candidates tried before the nearest within the noise is believed: of an unknown, a known codec


class Channel:
    """What the wire does to a vector: nothing, a known codec, or an error of a size that known text shows.

    noise: usual error relative to |h|; worst: one that is hardly exceeded.
    """

    def __init__(self, place: Place, knowledge: Knowledge, tolerance: float) -> None:
        self.place, self.tolerance = place, tolerance
        self.noise = self.worst = 0.0
        self.rowwise = False
        if not place.exact:
            self.noise, self.worst, self.rowwise = shelved(
                knowledge, ("channel", place), lambda: codec_error(place, knowledge)
            )

    def hear(self, error: float) -> None:
        """Known text came with this relative error: an unknown codec, or weights that are not quite the same."""
        if error > max(self.tolerance, self.worst):
            self.noise, self.worst, self.rowwise = error, error, False

    def found(self, tried: Tensor, h: Tensor, count: int | None = None) -> int | None:
        """Which of the vectors tried [n, d] is h [d]; None if none of them, or if too few were tried to say.

        count: how many were tried, where these are only the nearest.
        """
        away = self.away(tried, h)
        if not self.noise:
            best = int(away.argmin())
            return best if away[best] < self.tolerance else None
        near = away.topk(min(NEAR, len(away)), largest=False).indices
        near = near[away[near] < MARGIN * self.worst]
        if not len(near):
            return None
        if self.rowwise:
            again = self.away(self.place.through(tried[near]), h)
            best = int(again.argmin())
            if again[best] < max(self.tolerance, FLIPS * self.noise):
                return int(near[best])
        return int(near[0]) if (count or len(tried)) >= (MANY if self.rowwise else ENOUGH) else None

    def belief(self, tried: Tensor, h: Tensor) -> Tensor:
        """Log likelihood [n], but for a constant, of each vector tried [n, d] under this noise."""
        spread = max(self.noise, self.tolerance)
        return -self.away(tried, h).square() * len(h) / (2 * spread**2)

    @staticmethod
    def away(tried: Tensor, h: Tensor) -> Tensor:
        """|F - h| / |h| of each of [n, d]."""
        return (tried - h).norm(dim=-1) / h.norm().clamp_min(1e-12)


def codec_error(place: Place, knowledge: Knowledge) -> tuple[float, float, bool]:
    """Usual and largest relative error of the codec on own vectors, and whether it codes each vector by itself."""
    if knowledge.text:
        ids = windows(knowledge, SAMPLE * WINDOW)[0]
    else:
        ids = torch.randint(len(knowledge.tokenizer), (SAMPLE, WINDOW), generator=torch.Generator().manual_seed(0))
    clean = states(knowledge, place.depth, ids, dtype=torch.float32)  # a codec may keep all that bfloat16 has
    coded = place.through(clean)
    length = clean.norm(dim=-1)
    some = length > length.median() / 1000  # an embedding of nothing but zeros has no relative error
    some[:, 0] = False
    error = ((coded - clean).norm(dim=-1) / length)[some]
    alone = place.through(clean[0][:, None])[:, 0]
    return float(error.median()), float(error.quantile(0.999)), bool(torch.allclose(alone, coded[0], rtol=1e-5))
