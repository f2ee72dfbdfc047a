"""A tap records crossings: `with lk.tap(lm) as wire: lm.generate(...)`, then `wire.ledger()` and `wire.save(path)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..card import Card
from ..errors import CaptureError, UnsupportedModel
from .link import Link
from .message import Exchange, Sent

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from .capture import Capture


# TCP's, the token's, and hello's; nobody waits for a connection that is gone, or for an answer that nobody reads
TRIPS = {"hello": 3, "lost": 0, "dropped": 0, "moved": 0}


GREETINGS = ("hello", "moved")  # after these a host has seen nothing yet


class Tapped(Protocol):
    """A split model, as far as a tap is concerned."""

    remote: Any


class Where(NamedTuple):
    """Which step of which session a tensor belongs to; kind is "step", or "replay" for what a host had forgotten.

    behind: nobody waited for this step's round trip; it was under way behind another one, or did not cross at all.
    pads: left-pad positions of each row, where the step says so. rows: which row each one goes on, where the step says
    that they were re-ordered, as beams are.
    """

    kind: str
    session: int
    step: int
    start: int
    behind: bool = False
    pads: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()


class Crossing(NamedTuple):
    """One tensor in one direction (or a control frame, whose tensor and payload bytes are 0).

    tensor: bytes the values cost in the model's own number format; payload: bytes after the codec; frame: bytes counted
    in the stream (0 in process, where nothing is framed; all but their payload counts with a frame's first tensor).
    pads: left-pad positions of each row, where the frame says so. rows: the row that each one goes on, where the frame
    says that they were re-ordered.
    """

    name: str
    kind: str
    session: int
    step: int
    start: int
    direction: str
    shape: tuple[int, ...]
    codec: str
    tensor: int
    payload: int
    frame: int
    data: bytes
    pads: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()


class Tap(Card):
    """Records every crossing of one split model while its `with` block runs.

    clock: one number for each crossing, seconds on an emulated link's clock when it left (up) or had come (down); empty
    where the link has no clock. heard: called after every exchange; what it raises ends the call that is under way.
    """

    def __init__(self, model: Tapped, heard: Callable[[], None] | None = None) -> None:
        if not hasattr(getattr(model, "remote", None), "watchers"):
            raise UnsupportedModel(
                f"A tap listens to a split model, got {type(model).__name__}; split it first with lk.split()."
            )
        self.remote = model.remote
        self.model = model
        self.crossings: list[Crossing] = []
        self._trips = 0
        self.hosts: set[int] = set()  # of several hosts, the numbers of those that were sent something
        self.clock: list[float] = []
        self.heard = heard
        self._before: dict[str, tuple[int, int]] | None = None
        self._after: dict[str, tuple[int, int]] | None = None

    def __enter__(self) -> Tap:
        link: Link = self.remote.link
        self._before = link.counters()
        self._outer = link.on_control
        link.on_control = self._control
        self.remote.watchers.append(self._watch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        link: Link = self.remote.link
        self.remote.watchers.remove(self._watch)
        link.on_control = self._outer
        self._after = link.counters()

    def _watch(self, where: Where, up: Sequence[Sent], down: Sequence[Sent], done: Exchange) -> None:
        self._trips += not where.behind
        self.hosts.add(getattr(self.remote.link, "host", 1))
        for direction, tensors, frame in (("up", up, done.frame_up), ("down", down, done.frame_down)):
            rest = sum(len(s.encoded.payload) for s in tensors[1:])
            for number, (name, (spec, shape, payload), tensor) in enumerate(tensors):
                framed = 0 if not frame else len(payload) if number else frame - rest
                self.crossings.append(
                    Crossing(
                        name, *where[:4], direction, shape, spec, tensor, len(payload), framed, payload, *where[5:]
                    )
                )
            if not tensors:  # a frame of control fields only
                self.crossings.append(Crossing("", *where[:4], direction, (), "", 0, 0, frame, b""))
        self._note(getattr(self.remote.link, "last", None))

    def _control(self, kind: str, frame_up: int, frame_down: int) -> None:
        self._trips += TRIPS.get(kind, 1)
        host = getattr(self.remote.link, "host", 1)
        if kind not in GREETINGS:
            self.hosts.add(host)
        name = f"to host {host}" if kind == "moved" else ""
        for direction, frame in (("up", frame_up), ("down", frame_down)):
            self.crossings.append(Crossing(name, kind, 0, 0, 0, direction, (), "", 0, 0, frame, b""))
        self._note()
        if self._outer:
            self._outer(kind, frame_up, frame_down)

    def round_trips(self) -> int:
        """How often this side waited for the host: steps sent together count once, a connection's greeting thrice."""
        self.check()
        return self._trips

    def _note(self, trip: tuple[float, ...] | None = None) -> None:
        """Give the newest crossings their times; trip: how long the way was, as of an emulated link."""
        now = getattr(self.remote.link, "now", None)
        if now is not None:
            left = now - sum(trip[1:5]) if trip else now
            self.clock += [left if c.direction == "up" else now for c in self.crossings[len(self.clock) :]]
        if self.heard:
            self.heard()

    def counters(self) -> dict[str, tuple[int, int]]:
        """Bytes (up, down) that the stream, and TCP where the kernel tells, counted during the block."""
        self.check()
        now, before = self._after if self._after is not None else self.remote.link.counters(), self._before or {}
        return {k: (v[0] - before.get(k, (0, 0))[0], v[1] - before.get(k, (0, 0))[1]) for k, v in now.items()}

    def check(self) -> None:
        """Raise CaptureError unless the tap's block was entered: an empty table would look like an empty wire."""
        if self._before is None:
            raise CaptureError("This tap never listened; use it as a block: with lk.tap(lm) as wire: lm.generate(...).")

    def ledger(self) -> pd.DataFrame:
        """One row per crossing: kind, session, step, start, direction, shape, codec and three byte counts."""
        from .ledger import table

        self.check()
        return table(self.crossings)

    def totals(self) -> pd.DataFrame:
        """Tensor, payload and frame bytes by direction."""
        from .ledger import totals

        self.check()
        return totals(self.crossings)

    def capture(self, truth: dict[str, Tensor] | None = None) -> Capture:
        """What was recorded so far, as a capture; `truth` (name -> tensor) is sealed, for the report of an attack."""
        from .capture import Capture

        return Capture.of(self, truth)

    def save(self, path: str | Path, truth: dict[str, Tensor] | None = None) -> Path:
        """Write the capture (safetensors and manifest, neither prompt nor seed); `truth` goes to a file of its own."""
        return self.capture(truth).save(path)

    def _card(self) -> tuple[str, dict[str, object]]:
        if self._before is None:
            return "Tap: not listening", {"use": "with lk.tap(lm) as wire: lm.generate(...)"}
        steps = len({(c.session, c.step) for c in self.crossings if c.step})
        return f"Tap: {steps} steps", {**said(self.crossings), **seen_by(len(self.hosts))}


def said(crossings: Iterable[Crossing]) -> dict[str, object]:
    """The three byte counts by direction, as text."""
    counts = {d: [0, 0, 0] for d in ("up", "down")}
    for c in crossings:
        counts[c.direction] = [a + b for a, b in zip(counts[c.direction], (c.tensor, c.payload, c.frame), strict=True)]
    return {d: f"{t:,} tensor, {p:,} payload, {f:,} frame bytes" for d, (t, p, f) in counts.items()}


def seen_by(hosts: int) -> dict[str, object]:
    """A line of a card where several hosts saw the crossings: after a move, all that came before as well."""
    return {"hosts": f"{hosts} hosts saw these crossings"} if hosts > 1 else {}


def tap(model: Tapped, heard: Callable[[], None] | None = None) -> Tap:
    """Record what crosses between `model`'s two sides; use as a context manager. heard: called after every exchange."""
    return Tap(model, heard)
