"""How frames travel: what the graft asks of a link, and what a link asks of a body."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..errors import CalibrationMissing, FrameError
from ..quantization import Codec
from .message import Exchange, HostInfo, Open, PictureStep, Step, WholeStep

NOTHING = "No step is under way on this link; its connection may have ended since it was sent."
Message = Step | PictureStep | WholeStep
ControlHook = Callable[[str, int, int], None]


class BodyHost(Protocol):
    """What a link needs of a body: it opens sessions and answers steps."""

    info: HostInfo

    @property
    def message(self) -> type[Step] | type[PictureStep] | type[WholeStep]:
        """What kind of step this body answers."""

    def open(self, terms: Open) -> int:
        """Start a session; returns its number."""

    def step(self, session: int, step: Message) -> bytes:
        """Answer one step with the payload that goes down."""

    def close_session(self, session: int) -> None:
        """Forget a session."""

    def calibrate(self, raw: bytes) -> None:
        """Take a calibration that sessions to come may name."""

    def timings(self) -> bytes:
        """What the steps since the last question took, three int32 each, microseconds: waiting, codec, computing."""

    def told(self, name: str, *args: int) -> bytes:
        """The answer to health, stats or holdings(first), as it crosses (`wire.watch`)."""


class Link(Protocol):
    """Carries steps to one body. `epoch` changes when every session number given so far has died.

    Threads may share a link, each with sessions of its own: an answer belongs to the session that asked for it.
    A link to several hosts also has `host`, the number of the one in use, and tells `on_control` of a move ("moved").
    """

    info: HostInfo
    epoch: int
    on_control: ControlHook | None

    def open(self, terms: Open) -> int:
        """Start a session at the host; returns its number."""

    def step(self, session: int, step: Message) -> Exchange:
        """Send one step and wait for its answer; those that its session has not come for since `send` are dropped."""

    def send(self, session: int, step: Message) -> None:
        """Send one step and go on; several may be under way, and the host answers them in this order."""

    def receive(self, session: int) -> Exchange:
        """The answer to a session's oldest step under way; raises what `step` would, SessionUnknown if it has none."""

    def ready(self, session: int, seconds: float = 0.0) -> bool:
        """Whether the answer to a session's oldest step comes within so many seconds; False when none is under way."""

    def drop(self, session: int) -> None:
        """Read and forget the answers to a session's steps under way; their bytes are noted as dropped."""

    def abandon(self, session: int) -> None:
        """Let go of a session and of its steps under way without waiting for answers; the host should stop at them."""

    def close_session(self, session: int) -> None:
        """Tell the host to forget a session."""

    def calibrate(self, raw: bytes) -> None:
        """Give the host a calibration file that it does not have."""

    def timings(self) -> list[tuple[int, int, int]]:
        """(waiting, codec, computing) at the host in microseconds, for each step since the last question."""

    def counters(self) -> dict[str, tuple[int, int]]:
        """Bytes (up, down) so far, by who counted: `stream`, and `tcp` where the kernel tells."""

    def close(self) -> None:
        """End the link; a second call does nothing."""


def about(info: HostInfo) -> dict[str, object]:
    """What a link's host said of itself, as far as people ask."""
    return {"body": f"layers {info.start} to {info.stop - 1} of {info.model}", "dtype": info.dtype}


def named(link: Link) -> str:
    """A link as the card of what is split over it names it: where its host is, or how its frames travel."""
    known = (getattr(link, name, None) for name in ("said", "address", "name"))
    return next((text for text in known if text), type(link).__name__)


def begin(link: Link, terms: Open, *codecs: Codec) -> int:
    """Start a session; a host that lacks the calibration of one of its codecs is given it first."""
    try:
        return link.open(terms)
    except CalibrationMissing:
        known = {c.calibration.id: c.calibration for c in codecs if c.calibration is not None}
        for calibration in known.values():
            link.calibrate(calibration.raw)
        return link.open(terms)


def timings_from_wire(raw: bytes) -> list[tuple[int, int, int]]:
    """A host's timings as they came, microseconds; raises FrameError."""
    if len(raw) % 12:
        raise FrameError("A host's timings are three int32 for each step.")
    return [(a, b, c) for a, b, c in np.frombuffer(raw, "<i4").reshape(-1, 3).tolist()]
