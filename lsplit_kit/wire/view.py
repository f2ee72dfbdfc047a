"""Who sees which crossings: an observer's view of a capture, and the conversations in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..card import Card
from ..errors import CodecError, UnsupportedOption
from ..quantization import Codec, Encoded, codec
from .rows import Rows
from .tap import Crossing

if TYPE_CHECKING:
    import pandas as pd

    from .capture import Capture

OBSERVERS = {
    "cloud": ("up", "down"), "eavesdrop_both": ("up", "down"), "eavesdrop_up": ("up",), "eavesdrop_down": ("down",),
}  # fmt: skip


class Heard(NamedTuple):
    """The vectors [n, d] of one direction that were heard last at each of the positions [n], in order."""

    vectors: Tensor
    positions: Tensor


class Conversation(NamedTuple):
    """One row of one session, at its end.

    withdrawn: vectors up that a later step replaced or let go, such as those of rejected drafts and of beams given up.
    """

    session: int
    row: int
    up: Heard
    down: Heard
    withdrawn: Heard


@dataclass(frozen=True, repr=False)
class View(Card):
    """An observer's part of a capture: crossings in its directions, their times, and what everybody knows of them.

    Which frame belongs to which step, how many positions it has, and which rows go on, every observer knows: frames
    say so in clear.
    """

    observer: str
    manifest: dict
    crossings: tuple[Crossing, ...]
    clock: tuple[float, ...]
    steps: dict[tuple[int, int], int]  # (session, step) -> positions that went up

    def tensors(self, direction: str = "up") -> list[Tensor]:
        """The decoded tensors [B, T, d] of a direction, in order; UnsupportedOption where the observer has none."""
        self.check(direction)
        return [tensor for c, tensor in decoded(self.crossings) if c.direction == direction]

    def check(self, direction: str) -> None:
        """Raise UnsupportedOption unless this observer sees the direction."""
        if direction not in OBSERVERS[self.observer]:
            raise UnsupportedOption(f"{self.observer} does not see what goes {direction}.")

    def conversations(self) -> list[Conversation]:
        """The hidden vectors of every row of every session, by position; padding on the left is none of it.

        Where rows are re-ordered, as beams are, a row holds what its parent held up to there.
        """
        sessions: dict[int, Rows] = {}
        for c, tensor in decoded(self.crossings):
            if c.name == "hidden":
                sent = self.steps.get((c.session, c.step), c.shape[1])
                sessions.setdefault(c.session, Rows()).hear(c, tensor, sent)
        return [
            Conversation(session, row, _heard(sorted(heard["up"].items())), _heard(sorted(heard["down"].items())),
                         _heard(gone))
            for session, rows in sessions.items()
            for row, (heard, gone) in enumerate(zip(rows.heard, rows.withdrawn, strict=True))
        ]  # fmt: skip

    def ledger(self) -> pd.DataFrame:
        """One row per crossing that the observer sees."""
        from .ledger import table

        return table(self.crossings)

    def _card(self) -> tuple[str, dict[str, object]]:
        first, stop = self.manifest["layers"]
        return f"What {self.observer} sees", {
            "directions": " and ".join(OBSERVERS[self.observer]),
            "crossings": len(self.crossings),
            "sessions": len({c.session for c in self.crossings if c.codec}),
            "body": f"layers {first} to {stop - 1} of {self.manifest['model']}",
            "codecs": f"{self.manifest['up']} up, {self.manifest['down']} down",
        }


def view(capture: Capture, observer: str) -> View:
    """What `observer` has of a capture; raises UnsupportedOption for one that nobody knows."""
    if observer not in OBSERVERS:
        raise UnsupportedOption(f"Unknown observer {observer!r}; choose one of {', '.join(OBSERVERS)}.")
    seen = [i for i, c in enumerate(capture.crossings) if c.direction in OBSERVERS[observer]]
    steps = {(c.session, c.step): c.shape[1] for c in capture.crossings if c.direction == "up" and c.name == "hidden"}
    clock = tuple(capture.clock[i] for i in seen) if capture.clock else ()
    return View(observer, capture.manifest, tuple(capture.crossings[i] for i in seen), clock, steps)


def decoded(crossings: Iterable[Crossing]) -> Iterator[tuple[Crossing, Tensor]]:
    """Each crossing that carries a coded tensor, with the tensor [B, T, d]."""
    coders: dict[tuple, Codec] = {}
    latest: dict[str, Codec] = {}  # by what comes down
    told: list[Crossing] = []  # what a session that was begun anew predicts from
    for c in crossings:
        told += [c] if c.name.startswith("past.") else []
        if c.codec and not c.codec.startswith(("raw:", "whole:")):
            key, encoded = (c.session, c.name, c.direction), Encoded(c.codec, c.shape, c.data)
            if key not in coders or c.kind == "replay":
                coders[key] = begun_anew(c, told) if c.kind == "replay" else codec(c.codec).coder()
            coder = coders[key]
            try:
                tensor = coder.decode(encoded)
            except CodecError:  # what went up was not heard; what came down before was
                if not coder.stateful or c.kind != "replay" or coder.remembered() or c.name not in latest:
                    raise
                coder.resume(latest[c.name].remembered())
                tensor = coder.decode(encoded)
            latest[c.name] = coder
            yield c, tensor


def begun_anew(c: Crossing, before: Iterable[Crossing]) -> Codec:
    """A coder for what comes down in a session that was begun anew: its past went up with the same call."""
    coder, name = codec(c.codec).coder(), f"past.{c.name.removeprefix('out') or '0'}."
    told = [a for a in before if (a.session, a.step) == (c.session, c.step) and a.name.startswith(name)]
    coder.resume([torch.from_numpy(np.frombuffer(a.data, "<f4").copy()).reshape(a.shape) for a in told])
    return coder


def _heard(items: list[tuple[int, Tensor]]) -> Heard:
    vectors = torch.stack([v for _, v in items]) if items else torch.empty(0, 0)
    return Heard(vectors, torch.tensor([p for p, _ in items], dtype=torch.long))
