"""Where the two cuts are: `SplitPlan(head=2, tail=2)` leaves the first two and the last two decoder layers local."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import PlanError

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SplitPlan:
    """The cuts of a model with n decoder layers: head = layers[:head], body = layers[head:n-tail], tail = the rest.

    Embedding, final norm and LM head always stay local (arXiv 2310.14651). Raises PlanError.
    """

    head: int = 2
    tail: int = 2

    def __post_init__(self) -> None:
        for name in ("head", "tail"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise PlanError(f"{name} must be a whole number of layers, got {value!r}.")
            if value < 0:
                raise PlanError(f"{name}={value} is negative; use 0 to keep no decoder layer on that side.")

    def check(self, layers: int) -> SplitPlan:
        """This plan, if a model of `layers` decoder layers can be cut so; otherwise PlanError."""
        for name in ("head", "tail"):
            if getattr(self, name) > layers:
                raise PlanError(f"{name}={getattr(self, name)} is out of range: the model has {layers} decoder layers.")
        if self.head + self.tail > layers:
            raise PlanError(
                f"head={self.head} and tail={self.tail} overlap: together {self.head + self.tail} of {layers} layers."
            )
        if self.head + self.tail == layers:
            raise PlanError(
                f"head={self.head} and tail={self.tail} leave no body: all {layers} layers would be local; lower one."
            )
        return self

    def cut(self, layers: int) -> tuple[int, int]:
        """First body layer and the one after the last, for a model of `layers` decoder layers."""
        self.check(layers)
        return self.head, layers - self.tail

    def table(self, model: PreTrainedModel, context: int = 512) -> pd.DataFrame:
        """Layers, parameters, bytes and FLOPs per token (at `context` positions) of head, body and tail."""
        from .costs import plan_table

        return plan_table(self, model, context)

    def __str__(self) -> str:
        return f"head {self.head} / tail {self.tail}"
