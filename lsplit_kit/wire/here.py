"""The two links that stay in this process: the body called at once, or behind the very frames that RPyC would send."""

from __future__ import annotations

import contextlib
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
