"""What every attack is: an estimator that is fitted to its knowledge and then reads an observer's view."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, ClassVar, Self

from sklearn.base import BaseEstimator
from torch import Tensor

from ..card import Card
from ..errors import NeedsKnowledge, UnsupportedOption
from ..wire.view import Heard, View
from .knowledge import Knowledge
from .options import check


@dataclass
class Cost:
    """What an attack used up: CPU seconds to fit and to read, candidates tried, queries to the victim's own head.

    Reading is done when the tokens are said; beliefs are worked out when they are asked for, and not counted.
    """

    fit_seconds: float = 0.0
    read_seconds: float = 0.0
    candidates: int = 0
    queries: int = 0


@dataclass(frozen=True, repr=False)
class Reconstruction(Card):
    """What an attack believes, by conversation.

    tokens: best guesses [T]; top: the ten best [T, 10], best first, or fewer; positions [T] of both in the
    conversation. log_probs: natural logarithms of the attacker's belief, [T, V] of a conversation by number, or None
    where it only says tokens.
    """

    attack: str
    observer: str
    tokens: list[Tensor]
    top: list[Tensor]
    positions: list[Tensor]
    log_probs: Callable[[int], Tensor] | None
    cost: Cost
    notes: dict[str, Any] = field(default_factory=dict)

    def texts(self, tokenizer: Any) -> list[str]:
        """The guesses as text."""
        return [tokenizer.decode(t, skip_special_tokens=True) for t in self.tokens]

    def _card(self) -> tuple[str, dict[str, object]]:
        count = sum(map(len, self.tokens))
        seconds = self.cost.read_seconds
        return f"{self.attack} by {self.observer}", {
            "conversations": len(self.tokens),
            "tokens": f"{count:,}",
            "beliefs": "tokens only" if self.log_probs is None else "probabilities of all tokens",
            "fitting": f"{self.cost.fit_seconds:.1f} CPU-s",
            "reading": f"{seconds:.1f} CPU-s" + (f", {seconds / count:.4f} a token" if count else ""),
            **({"candidates": f"{self.cost.candidates:,}"} if self.cost.candidates else {}),
            **({"queries": f"{self.cost.queries:,} tokens"} if self.cost.queries else {}),
            **self.notes,
        }


class Attack(BaseEstimator):
    """Base of all attacks: `fit(view, knowledge)` prepares, `reconstruct(view)` reads; the truth is in neither.

    requires: what it must know (`Knowledge.has`). reads: the direction of the vectors that it looks at, or "" for
    none; also: a second one. Fitting takes only public facts from the view: the place of the cut and the codec.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    reads: str = "up"
    also: ClassVar[str] = ""

    def fit(self, view: View, knowledge: Knowledge) -> Self:
        """Prepare; raises NeedsKnowledge, and UnsupportedOption for bad options or an observer who sees too little."""
        name = type(self).__name__
        check(name, self.get_params())
        if not isinstance(knowledge, Knowledge):
            raise UnsupportedOption(f"{name}.fit takes a view and a Knowledge(...), got {type(knowledge).__name__}.")
        knowledge.grant(name, self.requires)
        self._sees(view)
        self.knowledge_, self.cost_, self.layers_seen_ = knowledge, Cost(), view.manifest.get("layers")
        with self.timed("fit_seconds"):
            self._fit(view, knowledge)
        return self

    def reconstruct(self, view: View) -> Reconstruction:
        """What the attack makes of a view; raises NeedsKnowledge, and UnsupportedOption at another cut than `fit`."""
        if not hasattr(self, "knowledge_"):
            raise NeedsKnowledge(f"{type(self).__name__} was not fitted: call fit(view, knowledge) first.")
        self._sees(view)
        if self.reads and view.manifest.get("layers") != self.layers_seen_:
            raise UnsupportedOption(f"{type(self).__name__} was fitted to another cut than this view's: fit it again.")
        self.cost_ = replace(self.cost_, read_seconds=0.0, candidates=0)  # this reading's own
        with self.timed("read_seconds"):
            return self._reconstruct(view)

    def _sees(self, view: View) -> None:
        """Raise UnsupportedOption unless this is a view of all that the attack looks at."""
        if not isinstance(view, View):
            raise UnsupportedOption(
                f"{type(self).__name__} reads a view, capture.view('cloud') for one, got {type(view).__name__}."
            )
        for direction in filter(None, (self.also, self.reads)):
            view.check(direction)

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        raise NotImplementedError

    def _reconstruct(self, view: View) -> Reconstruction:
        raise NotImplementedError

    def heard(self, view: View) -> list[Heard]:
        """The vectors of every conversation in the direction that this attack reads."""
        return [c.up if self.reads == "up" else c.down for c in view.conversations()]

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the CPU seconds of the block to the cost."""
        begun = time.process_time()
        try:
            yield
        finally:
            setattr(self.cost_, what, getattr(self.cost_, what) + time.process_time() - begun)

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:  # noqa: N803 (scikit-learn's name)
        options = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items())
        known = getattr(self, "knowledge_", None)
        model = f"\n{known!r}" if known is not None else ""
        ways = " and ".join(filter(None, (self.reads, self.also)))
        looks = f"reads what goes {ways}" if ways else "reads no vector"
        return f"{type(self).__name__}({options}): {looks}; needs {', '.join(self.requires) or 'nothing'}{model}"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"
