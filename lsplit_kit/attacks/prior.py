"""The control: what an attacker guesses without a look at one vector."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..wire.view import View
from .attack import Attack, Reconstruction
from .knowledge import Knowledge
from .probe import BEST
from .study import counted, windows


class PriorOnly(Attack):
    """Guesses every token by how often it occurs in the attacker's own text; only the length is from the wire.

    ahead: guesses at the places that vectors coming down speak of, not at those of what goes up.
    """

    requires: ClassVar[tuple[str, ...]] = ("tokenizer", "text")
    reads: str = ""

    def __init__(self, ahead: bool = False) -> None:
        self.ahead = ahead

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        view.check("down" if self.ahead else "up")
        self.log_prior_ = counted(windows(knowledge)[0].flatten(), len(knowledge.tokenizer))

    def _reconstruct(self, view: View) -> Reconstruction:
        view.check("down" if self.ahead else "up")
        positions = [c.down.positions + 1 if self.ahead else c.up.positions for c in view.conversations()]
        best = self.log_prior_.topk(BEST).indices

        def beliefs(number: int) -> Tensor:
            return self.log_prior_.expand(len(positions[number]), -1)

        top = [best.expand(len(p), -1) for p in positions]
        return Reconstruction(
            type(self).__name__, view.observer, [t[:, 0] for t in top], top, positions, beliefs, self.cost_
        )
