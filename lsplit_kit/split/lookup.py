"""Drafts from what was already said: the token that followed when the text last ended as it does now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

LONGEST = 4  # tokens of context that are looked up; a match is then followed back as far as it goes
FAR = 24  # tokens that a match is followed back

# How often a guess is right by the length of its match, where the ending stood once before; twice and was followed by
# different tokens; twice by the same. Rounded from what greedy replies of SmolLM2 to the calibration texts gave.
USUAL = {
    1: (0.3, 0.15, 0.55), 2: (0.6, 0.35, 0.8), 3: (0.7, 0.4, 0.9), 4: (0.8, 0.3, 0.93), 7: (0.9, 0.4, 0.96),
    13: (0.94, 0.45, 0.98),
}  # fmt: skip


class Guess(NamedTuple):
    """One drafted token, who drafted it, the kind of guess (guesses of a kind share their chance), and that chance."""

    token: int
    source: str
    kind: tuple[Any, ...]
    chance: float = 0.0


class Source(Protocol):
    """Drafts tokens of one text; a copy serves another text."""

    name: str

    def begin(self, ids: Sequence[int]) -> None:
        """A new text, which begins with this prompt."""

    def extend(self, ids: Sequence[int], vector: Tensor | None) -> None:
        """Tokens that the model chose, and the vector [d] that its LM head read for the last of them."""

    def guess(self, drafted: Sequence[int]) -> Guess | None:
        """What follows the text and the tokens drafted behind it; asked again with one more each time."""

    def usual(self, kind: tuple[Any, ...]) -> float:
        """The chance that a guess of this kind is right, before any was seen."""


class Lookup:
    """Finds the longest ending of a text that stood in it before, and drafts what followed; latest match first."""

    name = "lookup"

    def __init__(self) -> None:
        self.begin(())

    def begin(self, ids: Sequence[int]) -> None:
        """A new text."""
        self.ids: list[int] = []
        self.after: dict[tuple[int, ...], list[int]] = {}  # an n-gram -> where its next token stands, the last two
        self.extend(ids)

    def extend(self, ids: Sequence[int], vector: Tensor | None = None) -> None:
        """Tokens that are now part of the text."""
        for token in ids:
            end = len(self.ids)
            for n in range(1, min(LONGEST, end) + 1):
                places = self.after.setdefault(tuple(self.ids[end - n :]), [])
                places.append(end)
                del places[:-2]
            self.ids.append(token)

    def guess(self, drafted: Sequence[int]) -> Guess | None:
        """What follows the text and these drafted tokens; None where the ending is new."""
        tail = [*self.ids[-FAR:], *drafted][-FAR:]
        for n in range(min(LONGEST, len(tail)), 0, -1):
            places = self.after.get(tuple(tail[-n:]))
            if places:
                place = places[-1]
                long = n
                while long < min(len(tail), place) and self.ids[place - long - 1] == tail[-long - 1]:
                    long += 1
                agree = len(places) > 1 and self.ids[places[0]] == self.ids[place]
                kind = (long if long < 4 else 4 if long < 7 else 7 if long < 13 else 13, len(places) > 1, agree)
                return Guess(self.ids[place], self.name, kind)
        return None

    def usual(self, kind: tuple[Any, ...]) -> float:
        """The chance that such a guess is right, before any was seen: longer matches and agreeing ones are better."""
        long, twice, agree = kind
        return USUAL[long][2 if agree else 1 if twice else 0]
