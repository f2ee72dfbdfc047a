"""The nearest row of the embedding table: exact where nothing stands before the cut, blind behind one layer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .knowledge import Knowledge
from .probe import Probe
from .study import Study


class NearestEmbedding(Probe):
    """argmax_v cos(h, E_v), the embedding row of most alike direction (HEI of arXiv 2405.11916)."""

    requires: ClassVar[tuple[str, ...]] = (*Probe.requires, "embeddings")

    def _learn(self, learned: Study, knowledge: Knowledge) -> None:
        rows = knowledge.model.get_input_embeddings().weight.detach().float()[: self.vocabulary_]
        self.rows_ = rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-9)

    def _scores(self, vectors: Tensor) -> Tensor:
        # a cosine of 1 is a match and 0.5 is none: on the scale of logarithms, that is far apart
        return 100 * (vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-9)) @ self.rows_.T
