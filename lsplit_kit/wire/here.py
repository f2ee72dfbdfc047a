"""The two links that stay in this process: the body called at once, or behind the very frames that RPyC would send."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable

from rpyc.core import brine, consts

from ..card import Card
from ..errors import HostUnavailable, LsplitError, SessionUnknown
from .link import NOTHING, BodyHost, ControlHook, Message, about, timings_from_wire
from .message import Exchange, Open
from .watch import Watched

FRAME_OVERHEAD = 7  # RPyC's channel: 4 bytes length, 1 "compressed", 1 message kind, 1 end mark


class InProcess(Watched, Card):
    """The body in this process: payloads are encoded and decoded, nothing is framed (frame bytes are 0)."""

    name = "in process"

    def __init__(self, body: BodyHost) -> None:
        self.body, self.info, self.epoch = body, body.info, 0
        self.on_control: ControlHook | None = None
        self._closed = False
        # the steps under way of each session: bytes up, and what is left to do
        self._asked: dict[int, deque[tuple[int, Callable[[], Exchange]]]] = {}

    def open(self, terms: Open) -> int:
        """Start a session in this process."""
        self._check()
        return self.body.open(terms)

    def step(self, session: int, step: Message) -> Exchange:
        """Run one step in this process."""
        self._check()
        self.drop(session)
        return self._begin(session, step)[1]()

    def send(self, session: int, step: Message) -> None:
        """Put a step behind those under way; it is computed when its answer is asked for."""
        self._check()
        self._asked.setdefault(session, deque()).append(self._begin(session, step))

    def receive(self, session: int) -> Exchange:
        """Compute a session's oldest step under way."""
        if not self._asked.get(session):
            raise SessionUnknown(NOTHING)
        return self._asked[session].popleft()[1]()

    def drop(self, session: int) -> None:
        """Compute and forget a session's steps under way."""
        while self._asked.get(session):
            with contextlib.suppress(LsplitError):
                done = self.receive(session)
                if self.on_control and done.frame_up:
                    self.on_control("dropped", done.frame_up, done.frame_down)

    def ready(self, session: int, seconds: float = 0.0) -> bool:
        """Whether a session has a step under way: in this process its answer is a computation away."""
        return bool(self._asked.get(session))

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
        """Forget a session; its steps under way are not computed."""
        self._asked.pop(session, None)
        self.body.close_session(session)

    def close_session(self, session: int) -> None:
        """Forget a session."""
        self.drop(session)
        self._asked.pop(session, None)
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
        self._books = threading.Lock()  # of two threads every byte is counted, and every frame has a number of its own

    def open(self, terms: Open) -> int:
        """Start a session through real frames."""
        self._check()
        args, up, number = self._frame("open", tuple(terms))
        session = super().open(Open(*args))
        self._note("open", up, self._reply(session, number)[1])
        return session

    def timings(self) -> list[tuple[int, int, int]]:
        """What the body's steps took, through real frames."""
        _, up, number = self._frame("timings", ())
        raw, down = self._reply(self.body.timings(), number)
        self._note("timings", up, down)
        return timings_from_wire(raw)

    def told(self, name: str, *args: int) -> bytes:
        """What the body says of itself, through real frames."""
        args, up, number = self._frame(name, args)
        raw, down = self._reply(super().told(name, *args), number)
        self._note(name, up, down)
        return raw

    def _begin(self, session: int, step: Message) -> tuple[int, Callable[[], Exchange]]:
        """One step through real frames."""
        args, up, number = self._frame("step", (session, *step.to_wire()))

        def rest() -> Exchange:
            payload, down = self._reply(self.body.step(args[0], type(step).from_wire(args[1:])), number)
            self._count(up, down)
            return Exchange(payload, up, down)

        return up, rest

    def abandon(self, session: int) -> None:
        """Forget a session, as the end of a connection would; the questions under way stay in the books."""
        up = sum(size for size, _ in self._asked.get(session, ()))
        super().abandon(session)
        if up:
            self._note("dropped", up, 0)

    def close_session(self, session: int) -> None:
        """Forget a session, through real frames."""
        _, up, number = self._frame("close_session", (session,))
        super().close_session(session)
        self._note("close", up, self._reply(None, number)[1])

    def calibrate(self, raw: bytes) -> None:
        """Give the body a calibration, through real frames."""
        args, up, number = self._frame("calibrate", (raw,))
        super().calibrate(*args)
        self._note("calibrate", up, self._reply(None, number)[1])

    def counters(self) -> dict[str, tuple[int, int]]:
        """Bytes framed so far."""
        return {"stream": (self.sent, self.received)}

    def _count(self, up: int, down: int) -> None:
        with self._books:
            self.sent, self.received = self.sent + up, self.received + down

    def _note(self, kind: str, up: int, down: int) -> None:
        self._count(up, down)
        if self.on_control:
            self.on_control(kind, up, down)

    def _frame(self, name: str, args: tuple) -> tuple[tuple, int, int]:
        """A question that went through a frame: its arguments, the frame's bytes, and its number."""
        with self._books:
            self._seq += 1
            number = self._seq
        boxed = (consts.LABEL_VALUE, (None, name, args, ()))
        raw = brine.dump((number, (consts.HANDLE_CALLATTR, boxed)))
        return brine.load(raw)[1][1][1][2], len(raw) + FRAME_OVERHEAD, number

    def _reply(self, value: object, number: int) -> tuple[bytes, int]:
        """The answer to that question, and its frame's bytes."""
        raw = brine.dump((number, (consts.LABEL_VALUE, value)))
        return brine.load(raw)[1][1], len(raw) + FRAME_OVERHEAD
