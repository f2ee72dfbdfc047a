"""One connection at a time: questions under way, their answers in order, and the books of every byte."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from ..errors import Busy, FrameError, HostTimeout, HostUnavailable, LsplitError, SessionUnknown
from ..wire.link import NOTHING, ControlHook
from .protocol import ProtocolViolation, safe_text
from .stream import FastStream, Stalled, TlsError, minus, plus


class Talk:
    """Questions to one host; any doubt about the connection ends it, and its bytes stay in the books.

    `epoch` counts the connections that ended; `_sessions` are those of the connection under way.
    """

    def __init__(self, address: str, timeout: float, on_control: ControlHook | None) -> None:
        self.address, self.timeout, self.on_control = address, timeout, on_control
        self.epoch, self._owner = 0, os.getpid()
        self._conn: Any = None  # a PrimitiveConnection, its FastStream and LimitedChannel: all three or none
        self._stream: Any = None
        self._channel: Any = None
        self._asked_for: deque[tuple[int, str, int]] = deque()  # questions under way: number, name, bytes up
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
        """Return (value, bytes up, bytes down) of one named call, after the answers that nobody came for."""
        self._settle()
        self._ask(name, args)
        return self._answer(kinds)

    def _settle(self) -> None:
        while self._asked_for:
            with contextlib.suppress(LsplitError):
                self._note("dropped", *self._answer((bytes,))[1:])

    def _ask(self, name: str, args: tuple) -> None:
        if self._conn is None:
            raise SessionUnknown(NOTHING)
        with self._doubt(name):
            before = self._stream.tx
            number = self._conn.ask(name, args)
            self._asked_for.append((number, name, self._stream.tx - before))

    def _answer(self, kinds: tuple[type, ...]) -> tuple:
        """Return (value, bytes up, bytes down) of the oldest question; a typed error's bytes are noted here."""
        number, name, up = self._asked_for[0]
        with self._doubt(name):
            try:
                value = self._conn.answered(number)
            except LsplitError as error:
                self._note("busy" if isinstance(error, Busy) else "error", up, self._told(up))
                raise
            if type(value) not in kinds:
                raise ProtocolViolation(f"{name} was answered with {type(value).__name__}")
            return value, up, self._told(up)

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
        self.epoch += 1
        stream.close()
        if conn is not None:
            conn.close()
        self._note(kind, *minus((stream.tx, stream.rx), self._explained))
        self._explained = (0, 0)

    def _last_tcp(self, stream: FastStream) -> tuple[int, int] | None:
        if self._past_tcp is None or (now := stream.tcp_info()) is None:
            return None
        return plus(self._past_tcp, minus(now, self._tcp_start))

    def _note(self, kind: str, up: int, down: int) -> None:
        if self.on_control and (up or down):
            self.on_control(kind, up, down)
