"""Running the tail: whoever has its weights knows what the model says as well as the local side does."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..wire.view import View
from .ahead import Ahead
from .knowledge import Knowledge
from .layers import place_of


class RunTail(Ahead):
    """The attacker's copy of the tail on what came down: exact for greedy replies where the weights are the same.

    Where the cut is not known, it is looked for, which takes the head's weights as well.
    """

    requires: ClassVar[tuple[str, ...]] = ("tokenizer", "tail weights")

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self.place_ = place_of(view, knowledge, self.reads)
        self._behind(knowledge, self.place_.depth)

    def _lens(self, vectors: Tensor) -> Tensor:
        return vectors
