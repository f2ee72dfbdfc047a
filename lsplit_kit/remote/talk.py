"""One connection at a time: questions under way, their answers in order, and the books of every byte.

Several sessions may have steps under way at once, each in a thread of its own. Whoever reads takes the answers as they
come, and those of others wait for them: an answer belongs to the session that asked, and nobody holds the link between
two calls.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import Busy, FrameError, HostTimeout, HostUnavailable, LsplitError, SessionUnknown
from ..wire.link import NOTHING, ControlHook
from .protocol import ProtocolViolation, safe_text
from .stream import FastStream, Stalled, TlsError, minus, plus


class Asked(NamedTuple):
    """A question under way: its number, its name, its bytes up, and the session that will come for its answer, or 0."""

    number: int
    name: str
    up: int
    session: int = 0


class Talk:
    """Questions to one host; any doubt about the connection ends it, and its bytes stay in the books.

    `epoch` counts the connections that ended; `_sessions` are those of the connection under way.
    """

    def __init__(self, address: str, timeout: float, on_control: ControlHook | None) -> None:
        self.address, self.timeout, self.on_control = address, timeout, on_control
        self.epoch, self._owner = 0, os.getpid()
        self._ended_by = 0  # the thread that let the last connection go
        self._conn: Any = None  # a PrimitiveConnection, its FastStream and LimitedChannel: all three or none
        self._stream: Any = None
        self._channel: Any = None
        self._asked_for: deque[Asked] = deque()  # questions under way
        self._came: dict[int, deque[tuple | LsplitError]] = {}  # answers that their sessions have not come for yet
        self._sessions: dict[int, int] = {}  # our number, never used twice -> the host's number on this connection
        self._past, self._tcp_start = (0, 0), (0, 0)
        self._past_tcp: tuple[int, int] | None = (0, 0)
        self._explained = (0, 0)  # bytes of this connection that belong to an answered question

    def counters(self) -> dict[str, tuple[int, int]]:
        """Bytes (up, down) over all connections of this link: `stream`, and `tcp` where the kernel tells."""
        now = (self._stream.tx, self._stream.rx) if self._stream else (0, 0)
        found = {"stream": plus(self._past, now)}
        tcp = self.tcp()
        return found | ({"tcp": tcp} if tcp else {})

    def tcp(self) -> tuple[int, int] | None:
        """The kernel's (bytes acknowledged, received) over all connections; None where it does not tell."""
        if self._past_tcp is None or self._stream is None:
            return self._past_tcp
        now = self._stream.tcp_info()
        return None if now is None else plus(self._past_tcp, minus(now, self._tcp_start))

    def _drop_if_dead(self) -> None:
        """Between calls a host is silent: readable bytes mean that it closed the connection."""
        if self._conn is None:
            return
        if self._owner != os.getpid():  # a fork: two would read each other's answers
            self._forked()
            return
        try:
            dead = self._conn.closed or (not self._asked_for and self._channel.poll(0))
        except (EOFError, OSError, ValueError):
            dead = True
        if dead:
            self._discard()

    def _forked(self) -> None:
        """Let go of the parent's connection without ending it: close() only drops this process's descriptor."""
        self._owner = os.getpid()
        self._discard()

    def _call(self, name: str, args: tuple, kinds: tuple[type, ...]) -> tuple:
        """Return (value, bytes up, bytes down) of one named call, after the answers that are under way."""
        while self._asked_for:
            self._take_in()
        self._ask(name, args)
        return self._answer(kinds)

    def _ask(self, name: str, args: tuple, session: int = 0) -> None:
        while self._asked_for and self._stream.full:  # else either side might wait for the other to read
            self._take_in()
        if self._conn is None:
            raise self._unknown(NOTHING)
        with self._doubt(name):
            before = self._stream.tx
            number = self._conn.ask(name, args)
            self._asked_for.append(Asked(number, name, self._stream.tx - before, session))

    def _answer(self, kinds: tuple[type, ...]) -> tuple:
        """Return (value, bytes up, bytes down) of the oldest question."""
        asked = self._asked_for[0]
        with self._doubt(asked.name):
            return self._read(asked, kinds)

    def _read(self, asked: Asked, kinds: tuple[type, ...]) -> tuple:
        """The oldest question's answer, as `_answer` returns it; a typed error's bytes are noted here."""
        try:
            value = self._conn.answered(asked.number)
        except LsplitError as error:
            self._note("busy" if isinstance(error, Busy) else "error", asked.up, self._told(asked.up))
            raise
        if type(value) not in kinds:
            raise ProtocolViolation(f"{asked.name} was answered with {type(value).__name__}")
        return value, asked.up, self._told(asked.up)

    def _take_in(self) -> None:
        """Read the oldest answer, which waits for its session, be it an error; raises what ends the connection."""
        asked = self._asked_for[0]
        came: tuple | LsplitError
        with self._doubt(asked.name):  # a reader who is stopped in here ends the connection: no answer goes astray
            try:
                came = self._read(asked, (bytes,) if asked.session else (type(None),))
            except LsplitError as error:
                came = error
            awaited = asked.session in self._sessions
            if awaited:
                self._came.setdefault(asked.session, deque()).append(came)
        if not awaited and not isinstance(came, LsplitError):
            self._note("dropped" if asked.session else "close", *came[1:])

    def _under_way(self, session: int) -> bool:
        """Whether steps of a session are under way; in a fork nobody's are."""
        if self._owner != os.getpid():
            self._forked()
        return any(asked.session == session for asked in self._asked_for)

    def _comes(self, session: int, end: float) -> bool:
        """Whether a session's oldest answer, or the end of the connection, comes before `end` (time.monotonic())."""
        try:
            while not self._came.get(session):
                if not self._under_way(session) or not self._channel.poll(max(end - time.monotonic(), 0)):
                    return False
                if self._asked_for[0].session == session:
                    break
                self._take_in()
        except (EOFError, OSError, ValueError, LsplitError):
            pass  # whoever comes for the answer is told why
        return True

    def _drop(self, session: int) -> None:
        """Read and forget the answers to a session's steps."""
        while self._under_way(session):
            self._take_in()
        self._forget(session)

    def _forget(self, session: int) -> None:
        """Forget the answers that wait for a session."""
        for came in self._came.pop(session, ()):
            if not isinstance(came, LsplitError):
                self._note("dropped", *came[1:])

    def _told(self, up: int) -> int:
        """The oldest question is answered: its bytes are explained; returns those of the answer."""
        self._asked_for.popleft()
        self._explained = plus(self._explained, (up, self._channel.got))
        return self._channel.got

    @contextlib.contextmanager
    def _doubt(self, name: str) -> Iterator[None]:
        """Any doubt about the connection ends it; the host's own typed answers, and our limits, are no doubt."""
        self._channel.until = time.monotonic() + self.timeout
        sure = False
        try:
            yield
            sure = True
        except LsplitError:
            sure = True
            raise
        except (Stalled, TimeoutError):
            raise HostTimeout(f"The host at {self.address} did not answer {name} within {self.timeout:g} s.") from None
        except ProtocolViolation as err:
            raise FrameError(f"The host broke the wire's rules: {safe_text(err)}.") from None
        except TlsError as err:
            if name == "hello":  # what the host thinks of our certificate is said where we connect
                raise
            raise HostUnavailable(f"TLS with {self.address} broke in {name}: {safe_text(err)}.") from None
        except (EOFError, OSError):
            raise HostUnavailable(
                f"The connection to {self.address} broke in {name}; the host may have ended."
            ) from None
        except Exception as err:
            raise FrameError(
                f"The host's answer to {name} does not have the agreed form ({type(err).__name__})."
            ) from None
        finally:
            if not sure and name != "hello":  # hello's connection is ended where it began
                self._discard()

    def _discard(self, kind: str = "lost") -> None:
        """Let the connection go; bytes that belong to no answered question are noted, as lost unless said otherwise."""
        stream, conn = self._stream, self._conn
        if stream is None:
            return
        self._past_tcp = self._last_tcp(stream)
        self._past = plus(self._past, (stream.tx, stream.rx))
        self._stream = self._channel = self._conn = None
        self._sessions.clear()
        self._asked_for.clear()
        self.epoch, self._ended_by = self.epoch + 1, threading.get_ident()
        stream.close()
        if conn is not None:
            conn.close()
        for session in list(self._came):
            self._forget(session)
        self._note(kind, *minus((stream.tx, stream.rx), self._explained))
        self._explained = (0, 0)

    def _unknown(self, text: str) -> SessionUnknown:
        """The error for a session whose connection is gone, which says whether this thread let it go."""
        error = SessionUnknown(text)
        error.by_another = self.epoch > 0 and self._ended_by != threading.get_ident()
        return error

    def _last_tcp(self, stream: FastStream) -> tuple[int, int] | None:
        if self._past_tcp is None or (now := stream.tcp_info()) is None:
            return None
        return plus(self._past_tcp, minus(now, self._tcp_start))

    def _note(self, kind: str, up: int, down: int) -> None:
        if self.on_control and (up or down):
            self.on_control(kind, up, down)
