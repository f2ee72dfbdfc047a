"""How frames travel. A link is what the graft talks to; here are the two that stay inside one process."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from rpyc.core import brine, consts

from ..card import Card
from ..errors import CalibrationMissing, FrameError, HostUnavailable, LsplitError, SessionUnknown
from ..quantization import Codec
from .message import Exchange, HostInfo, Open, PictureStep, Step, WholeStep
from .watch import Watched

FRAME_OVERHEAD = 7  # RPyC's channel: 4 bytes length, 1 "compressed", 1 message kind, 1 end mark

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

    A link to several hosts also has `host`, the number of the one in use, and tells `on_control` of a move ("moved").
    """

    info: HostInfo
    epoch: int
    on_control: ControlHook | None

    def open(self, terms: Open) -> int:
        """Start a session at the host; returns its number."""

    def step(self, session: int, step: Message) -> Exchange:
        """Send one step and wait for its answer; answers that nobody asked for since `send` are dropped."""

    def send(self, session: int, step: Message) -> None:
        """Send one step and go on; several may be under way, and the host answers them in this order."""

    def receive(self) -> Exchange:
        """The answer to the oldest step under way; raises what `step` would, SessionUnknown when none is under way."""

    def ready(self, seconds: float = 0.0) -> bool:
        """Whether the answer to the oldest step under way comes within so many seconds; False when none is."""

    def drop(self) -> None:
        """Read and forget the answers under way; their bytes are noted as dropped."""

    def abandon(self, session: int) -> None:
        """Let go of a session and of every step under way without waiting for answers; the host should stop at them."""

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


class InProcess(Watched, Card):
    """The body in this process: payloads are encoded and decoded, nothing is framed (frame bytes are 0)."""

    name = "in process"

    def __init__(self, body: BodyHost) -> None:
        self.body, self.info, self.epoch = body, body.info, 0
        self.on_control: ControlHook | None = None
        self._closed = False
        self._asked: deque[tuple[int, Callable[[], Exchange]]] = deque()  # steps under way: bytes up, and what is left

    def open(self, terms: Open) -> int:
        """Start a session in this process."""
        self._check()
        return self.body.open(terms)

    def step(self, session: int, step: Message) -> Exchange:
        """Run one step in this process."""
        self._check()
        self.drop()
        return self._begin(session, step)[1]()

    def send(self, session: int, step: Message) -> None:
        """Put a step behind those under way; it is computed when its answer is asked for."""
        self._check()
        self._asked.append(self._begin(session, step))

    def receive(self) -> Exchange:
        """Compute the oldest step under way."""
        if not self._asked:
            raise SessionUnknown(NOTHING)
        return self._asked.popleft()[1]()

    def drop(self) -> None:
        """Compute and forget the steps under way."""
        while self._asked:
            with contextlib.suppress(LsplitError):
                done = self.receive()
                if self.on_control and done.frame_up:
                    self.on_control("dropped", done.frame_up, done.frame_down)

    def ready(self, seconds: float = 0.0) -> bool:
        """Whether a step is under way: in this process its answer is a computation away."""
        return bool(self._asked)

    def timings(self) -> list[tuple[int, int, int]]:
        """What the body's steps took."""
        return timings_from_wire(self.body.timings())

    def told(self, name: str, *args: int) -> bytes:
        """What the body says of itself."""
        self._check()
        return self.body.told(name, *args)

    def _begin(self, session: int, step: Message) -> tuple[int, Callable[[], Exchange]]:
        return 0, lambda: Exchange(self.body.step(session, step), 0, 0)

    def abandon(self, session: int) -> None:
        """Forget a session; steps under way are not computed."""
        self._asked.clear()
        self.body.close_session(session)

    def close_session(self, session: int) -> None:
        """Forget a session."""
        self.body.close_session(session)

    def calibrate(self, raw: bytes) -> None:
        """Give the body a calibration."""
        self._check()
        self.body.calibrate(raw)

    def counters(self) -> dict[str, tuple[int, int]]:
        """Nothing is framed, so nothing was counted."""
        return {}

    def close(self) -> None:
        """End the link, as one to a host elsewhere would: no step runs over it afterwards."""
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise HostUnavailable("The link to the body in this process is closed; split the model again.")

    def _card(self) -> tuple[str, dict[str, object]]:
        return f"Link: {self.name}", {"state": "closed" if self._closed else "open", **about(self.info)}


class Loopback(InProcess):
    """The body in this process, but every call becomes the very frame that RPyC would send, and is parsed back."""

    name = "loopback"

    def __init__(self, body: BodyHost) -> None:
        super().__init__(body)
        self._seq = 0
        self.sent = self.received = 0

    def open(self, terms: Open) -> int:
        """Start a session through real frames."""
        self._check()
        args, up = self._frame("open", tuple(terms))
        session = super().open(Open(*args))
        self._note("open", up, self._reply(session)[1])
        return session

    def timings(self) -> list[tuple[int, int, int]]:
        """What the body's steps took, through real frames."""
        _, up = self._frame("timings", ())
        raw, down = self._reply(self.body.timings())
        self._note("timings", up, down)
        return timings_from_wire(raw)

    def told(self, name: str, *args: int) -> bytes:
        """What the body says of itself, through real frames."""
        args, up = self._frame(name, args)
        raw, down = self._reply(super().told(name, *args))
        self._note(name, up, down)
        return raw

    def _begin(self, session: int, step: Message) -> tuple[int, Callable[[], Exchange]]:
        """One step through real frames."""
        args, up = self._frame("step", (session, *step.to_wire()))
        number = self._seq

        def rest() -> Exchange:
            payload, down = self._reply(self.body.step(args[0], type(step).from_wire(args[1:])), number)
            self._count(up, down)
            return Exchange(payload, up, down)

        return up, rest

    def abandon(self, session: int) -> None:
        """Forget a session, as the end of a connection would; the questions under way stay in the books."""
        up = sum(size for size, _ in self._asked)
        super().abandon(session)
        if up:
            self._note("dropped", up, 0)

    def close_session(self, session: int) -> None:
        """Forget a session, through real frames."""
        _, up = self._frame("close_session", (session,))
        super().close_session(session)
        self._note("close", up, self._reply(None)[1])

    def calibrate(self, raw: bytes) -> None:
        """Give the body a calibration, through real frames."""
        args, up = self._frame("calibrate", (raw,))
        super().calibrate(*args)
        self._note("calibrate", up, self._reply(None)[1])

    def counters(self) -> dict[str, tuple[int, int]]:
        """Bytes framed so far."""
        return {"stream": (self.sent, self.received)}

    def _count(self, up: int, down: int) -> None:
        self.sent, self.received = self.sent + up, self.received + down

    def _note(self, kind: str, up: int, down: int) -> None:
        self._count(up, down)
        if self.on_control:
            self.on_control(kind, up, down)

    def _frame(self, name: str, args: tuple) -> tuple[tuple, int]:
        self._seq += 1
        boxed = (consts.LABEL_VALUE, (None, name, args, ()))
        raw = brine.dump((self._seq, (consts.HANDLE_CALLATTR, boxed)))
        return brine.load(raw)[1][1][1][2], len(raw) + FRAME_OVERHEAD

    def _reply(self, value: object, number: int | None = None) -> tuple[bytes, int]:
        raw = brine.dump((self._seq if number is None else number, (consts.LABEL_VALUE, value)))
        return brine.load(raw)[1][1], len(raw) + FRAME_OVERHEAD
