"""What was heard of a session's rows, as they go on: a beam's row holds the vectors of its parent up to there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .tap import Crossing

Placed = list[tuple[int, Tensor]]


class Rows:
    """The rows of one session: by direction, the vector [d] that was heard last at each position.

    Padding on the left is none of it. withdrawn: of each row, with their positions, the vectors up that a later step
    replaced, or that were those of a row that none goes on.
    """

    def __init__(self) -> None:
        self.heard: list[dict[str, dict[int, Tensor]]] = []
        self.withdrawn: list[Placed] = []
        self._pads: Sequence[int] = ()
        self._step = 0

    def hear(self, c: Crossing, tensor: Tensor, sent: int) -> None:
        """Take in the vectors [B, T, d] of a crossing whose step sent so many positions up."""
        if c.rows and c.step != self._step:  # both directions of a step say it
            self._reorder(c.rows)
        self._step = c.step
        if c.start == 0:  # a step that begins anew says it again
            self._pads = c.pads
        while len(self.heard) < len(tensor):
            self.heard.append({"up": {}, "down": {}})
            self.withdrawn.append([])
        for row, whole in enumerate(tensor):
            pads = self._pads[row] if row < len(self._pads) else 0
            first = c.start if c.direction == "up" else c.start + sent - len(whole)
            vectors, first = whole[max(0, pads - first) :], max(0, first - pads)
            heard = self.heard[row][c.direction]
            fresh = dict(zip(range(first, first + len(vectors)), vectors, strict=True))
            if c.direction == "up":
                again = [(p, heard.pop(p)) for p in sorted(heard) if p >= first]
                # what comes once more at the same place is no other word
                self.withdrawn[row] += [(p, v) for p, v in again if p not in fresh or not torch.equal(v, fresh[p])]
            heard.update(fresh)

    def _reorder(self, parents: Sequence[int]) -> None:
        """Row i goes on what was row parents[i]; of a session that was heard from its middle on, perhaps nothing."""
        before, taken = self.heard, self.withdrawn
        self.heard = [
            {way: dict(vectors) for way, vectors in before[parent].items()}
            if 0 <= parent < len(before) else {"up": {}, "down": {}}
            for parent in parents
        ]  # fmt: skip
        self._pads = [self._pads[p] if 0 <= p < len(self._pads) else 0 for p in parents]
        self.withdrawn = [[] for _ in parents]
        kept: dict[int, list[Tensor]] = {}
        for heard in self.heard:
            for p, vector in heard["up"].items():
                kept.setdefault(p, []).append(vector)
        for row, (old, gone) in enumerate(zip(before, taken, strict=True)):
            lost = []
            for p, vector in sorted(old["up"].items()):
                others = kept.setdefault(p, [])
                # what another row holds at the same place is no other word
                if not (any(vector is other for other in others) or any(torch.equal(vector, o) for o in others)):
                    others.append(vector)
                    lost.append((p, vector))
            self.withdrawn[min(row, len(parents) - 1)] += gone + lost
