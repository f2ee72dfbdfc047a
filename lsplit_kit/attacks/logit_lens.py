"""The logit lens: the final norm and LM head, right on what came down."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..wire.view import View
from .ahead import Ahead
from .knowledge import Knowledge


class LogitLens(Ahead):
    """LM head(norm(h)) on every vector that came down, as if no layer were missing (nostalgebraist, 2020)."""

    requires: ClassVar[tuple[str, ...]] = ("tokenizer", "LM head")

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self._behind(knowledge, knowledge.model.config.get_text_config().num_hidden_layers)

    def _lens(self, vectors: Tensor) -> Tensor:
        return vectors
