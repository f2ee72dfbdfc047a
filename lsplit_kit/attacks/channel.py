"""When a candidate's vector is the one that crossed: exactly, after the same codec, or within a noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .knowledge import Knowledge
from .noise import ENOUGH, MARGIN, MOST, Noise
from .study import WINDOW, Place, shelved, states, windows

if TYPE_CHECKING:
    from .search import Search

SAMPLE, NEAR = 16, 4  # rows of own text that show what a codec does; candidates that are put through it
FLIPS = 0.25  # share of the usual error within which a candidate counts as found after the codec
STRANGE = 0.5  # share of itself that known text has to be of what was heard: if it is less, that was another text


class Channel:
    """What the wire does to a vector: nothing, a known codec, or an error of a size that known text shows.

    noise: usual error of the codec relative to |h|; worst: one that is hardly exceeded. fresh: what else there is.
    """

    def __init__(self, place: Place, knowledge: Knowledge, tolerance: float) -> None:
        self.place, self.tolerance = place, tolerance
        self.noise = self.worst = 0.0
        self.rowwise = False
        self.fresh: Noise | None = None
        if not place.exact:
            self.noise, self.worst, self.rowwise = shelved(
                knowledge, ("channel", place), lambda: codec_error(place, knowledge)
            )

    def begins(self, known: Tensor, h: Tensor) -> bool:
        """Whether a text's first vectors h [n, d] are those of the known beginning [n, d], whose error is heard."""
        sent = self.place.through(known[None])[0]
        if not alike(sent, h):
            return False
        length = h.norm(dim=-1).clamp_min(1e-12)
        error = (known - h).norm(dim=-1)
        share, largest = error / length, float((error / length).max())
        if self.rowwise:
            more = float(((sent - h).norm(dim=-1) / length).median()) > max(self.tolerance, FLIPS * self.noise)
        elif self.noise:
            more = float(share.median()) > MARGIN * self.worst
        else:
            more = largest > self.tolerance
        if more:
            self.hear(error, length)
        elif self.noise and not self.rowwise:
            self.worst = max(self.worst, largest)
        return True

    def hear(self, error: Tensor, length: Tensor) -> None:
        """Text [n] that is known came with these errors, by vectors of these lengths: no codec makes them."""
        self.fresh = self.fresh or Noise()
        self.fresh.hear(error, length)

    def found(self, search: Search, last: int = 0) -> int | None:
        """Which of the vectors tried, or of the newest `last`, is h; None if none is, or if too few were tried."""
        tried, h, count = search.vectors[-last:], search.h, len(search.ids)
        if self.fresh is not None:
            beliefs = search.posterior(self, last)
            best = int(beliefs.argmax())
            likeliest = int(search.ids[-last:][best])
            before, search.likeliest = likeliest == search.likeliest, likeliest
            left = 1 - float(search.prior[search.ids].exp().sum())
            return best if self.fresh.found(tried, h, beliefs, count, left, before) else None
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
        return int(near[0]) if count >= (MOST if self.rowwise else ENOUGH) else None

    def belief(self, tried: Tensor, h: Tensor) -> Tensor:
        """Log likelihood [n], but for a constant, of each vector tried [n, d] under this noise."""
        if self.fresh is not None:
            return -(tried - h).square().sum(-1) * len(h) / (2 * self.fresh.at(h) ** 2)
        spread = max(self.noise, self.tolerance)
        return -self.away(tried, h).square() * len(h) / (2 * spread**2)

    @staticmethod
    def away(tried: Tensor, h: Tensor) -> Tensor:
        """|F - h| / |h| of each of [n, d]."""
        return (tried - h).norm(dim=-1) / h.norm().clamp_min(1e-12)


def alike(known: Tensor, h: Tensor) -> bool:
    """Whether vectors heard [n, d] are those of known text [n, d] and an error of any size: they go along with them.

    The share <h, F> / |F|^2 of each position's own direction is 1 but for noise, which spreads over all directions, and
    near 0 for another token; what all positions have in common is taken off, and the first one has least of it.
    """
    middle = known[1:].mean(0) if len(known) > 2 else torch.zeros(known.shape[-1])
    own = known - middle
    share = ((h - middle) * own).sum(-1) / own.square().sum(-1).clamp_min(1e-12)
    return bool(share.mean() > STRANGE and share.min() > STRANGE * share.mean())


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
