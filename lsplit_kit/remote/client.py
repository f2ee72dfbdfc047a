"""The link to a host elsewhere: one connection, one request in flight, a fresh connection after any doubt."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time

from rpyc.utils.factory import connect_channel

from ..card import Card
from ..errors import (
    AuthError,
    FrameError,
    HostTimeout,
    HostUnavailable,
    LsplitError,
    SessionUnknown,
    VersionMismatch,
)
from ..wire.link import ControlHook, Message, about
from ..wire.message import PROTOCOL, Exchange, HostInfo, Open
from .address import parse_address
from .protocol import (
    CONFIG,
    MAX_FRAME,
    LimitedChannel,
    PrimitiveConnection,
    PrimitiveService,
    ProtocolViolation,
    safe_text,
)
from .service import info_from_wire
from .stream import FastStream, Stalled, minus, plus, seconds
from .token import find_token, prove_to_host
from .versions import versions

CONNECT_SECONDS = 5.0


class RpycLink(Card):
    """A link to the host at `address` ("rpyc://127.0.0.1:18861"); connects at once, and again when it must.

    timeout: seconds for a whole call; fingerprint (hex), start, stop, dtype: what the host must serve (empty
    or None: what it holds); token: 32 bytes, else the token file; max_frame: bytes. Raises HostUnavailable,
    HostTimeout, AuthError, VersionMismatch, FingerprintMismatch and FrameError.
    """

    name = "rpyc"

    def __init__(
        self,
        address: str,
        timeout: float = 60.0,
        *,
        fingerprint: str = "",
        start: int | None = None,
        stop: int | None = None,
        dtype: str = "",
        token: bytes | None = None,
        max_frame: int = MAX_FRAME,
        on_control: ControlHook | None = None,
    ) -> None:
        self.address, self.timeout, self.on_control = address, seconds(timeout, "timeout"), on_control
        self._where = parse_address(address)
        self._asked = (fingerprint, -1 if start is None else start, -1 if stop is None else stop, dtype)
        self._token, self._max_frame = token, max_frame
        self.epoch = 0
        self._lock = threading.Lock()
        self._conn: PrimitiveConnection | None = None
        self._stream: FastStream | None = None
        self._channel: LimitedChannel | None = None
        self._numbers = itertools.count(1)
        self._sessions: dict[int, int] = {}  # our number, never used twice -> the host's number on this connection
        self._past, self._past_tcp = (0, 0), (0, 0)
        self._tcp_start = (0, 0)
        self._closed, self._owner = False, os.getpid()
        with self._lock:
            self._connect()

    info: HostInfo

    def open(self, terms: Open) -> int:
        """Start a session at the host; return its number."""
        with self._lock:
            self._ensure()
            number, up, down = self._call("open", tuple(terms), (int,))
            ours = next(self._numbers)
            self._sessions[ours] = number
            self._note("open", up, down)
            return ours

    def step(self, session: int, step: Message) -> Exchange:
        """Send one step, wait for its answer; raises SessionUnknown when the session's connection is gone."""
        with self._lock:
            self._drop_if_dead()
            number = self._sessions.get(session)
            if number is None:
                raise SessionUnknown(f"Session {session} ended with its connection; it has to be opened and replayed.")
            return Exchange(*self._call("step", (number, *step.to_wire()), (bytes,)))

    def close_session(self, session: int) -> None:
        """Tell the host to forget a session; nothing is sent when its connection is gone."""
        with self._lock:
            self._drop_if_dead()
            number = self._sessions.pop(session, None)
            if number is not None:
                _, up, down = self._call("close_session", (number,), (type(None),))
                self._note("close", up, down)

    def calibrate(self, raw: bytes) -> None:
        """Give the host a calibration file that it does not have."""
        with self._lock:
            self._ensure()
            _, up, down = self._call("calibrate", (raw,), (type(None),))
            self._note("calibrate", up, down)

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

    def close(self) -> None:
        """End the link, and a call in flight in another thread. A second call does nothing."""
        self._closed = True
        if self._owner != os.getpid() and self._conn is not None:
            self._forked()
        if self._lock.acquire(blocking=False):
            try:
                self._discard()
            finally:
                self._lock.release()
        elif self._stream is not None:  # the thread that waits cleans up after itself
            with contextlib.suppress(OSError, EOFError):
                self._stream.sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> RpycLink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _card(self) -> tuple[str, dict[str, object]]:
        state = "closed" if self._closed else "connected" if self._conn else "not connected"
        return f"Link: {self.address}", {"state": state, **about(self.info)}

    def _connect(self) -> None:
        if self._closed:
            raise HostUnavailable(f"The link to {self.address} is closed; make a new one.")
        wait = min(self.timeout, CONNECT_SECONDS)
        try:
            sock = socket.create_connection(self._where, timeout=wait)
        except TimeoutError:
            raise HostTimeout(f"No host answered at {self.address} within {wait:g} s.") from None
        except UnicodeError:
            raise FrameError(f"{safe_text(self.address)!r} names no machine; try rpyc://127.0.0.1:18861.") from None
        except OSError as err:
            raise HostUnavailable(
                f"No host answers at {self.address} ({err.strerror or err}); start one first."
            ) from None
        self._stream, self._owner = FastStream(sock, self.timeout), os.getpid()
        if self._closed:  # close() came while we dialled
            self._discard()
            raise HostUnavailable(f"The link to {self.address} is closed; make a new one.")
        self._tcp_start = self._stream.tcp_info() or (0, 0)
        if self._past_tcp is not None and self._stream.tcp_info() is None:
            self._past_tcp = None
        try:
            token = self._token if self._token is not None else find_token(*self._where)
            prove_to_host(self._stream, token, wait)
            self._channel = LimitedChannel(self._stream, self._max_frame)
            self._conn = connect_channel(self._channel, PrimitiveService, CONFIG)
            answer, _, _ = self._call("hello", (PROTOCOL, *versions(), *self._asked), (tuple,))
            self._accept(info_from_wire(answer))
        except AuthError:
            self._discard("lost")
            raise
        except Stalled:
            self._discard("lost")
            raise HostTimeout(f"{self.address} did not answer the handshake within {wait:g} s.") from None
        except (EOFError, ConnectionError) as err:
            self._discard("lost")
            if isinstance(err, LsplitError) and type(err) is not HostUnavailable:
                raise
            raise HostUnavailable(f"{self.address} ended the handshake; it may be full, or no lsplit host.") from None
        except BaseException:
            self._discard("lost")
            raise
        self._note("hello", self._stream.tx, self._stream.rx)  # with the token handshake's bytes

    def _accept(self, info: HostInfo) -> None:
        if info.protocol.split(".")[0] != PROTOCOL.split(".")[0]:
            theirs = safe_text(info.protocol)[:20]
            raise VersionMismatch(
                f"The local side speaks wire {PROTOCOL}, the host wire {theirs}; install the same lsplit_kit."
            )
        _, start, stop, _ = self._asked
        if start >= 0 and (info.start, info.stop) != (start, stop):
            raise FrameError(
                f"The host serves layers [{info.start}, {info.stop}) where [{start}, {stop}) were asked for."
            )
        self.info = info
        self._channel.max_frame = min(self._max_frame, max(info.max_frame, 1024))

    def _ensure(self) -> None:
        self._drop_if_dead()
        if self._conn is None:
            self._connect()

    def _drop_if_dead(self) -> None:
        """Between calls a host is silent: readable bytes mean that it closed the connection."""
        if self._conn is None:
            return
        if self._owner != os.getpid():  # a fork: two would read each other's answers
            self._forked()
            return
        try:
            dead = self._conn.closed or self._channel.poll(0)
        except (EOFError, OSError, ValueError):
            dead = True
        if dead:
            self._discard()

    def _forked(self) -> None:
        """Let go of the parent's connection without ending it: close() only drops this process's descriptor."""
        self._owner = os.getpid()
        self._discard()

    def _call(self, name: str, args: tuple, kinds: tuple[type, ...]) -> tuple:
        """Return (value, bytes up, bytes down) of one named call; any doubt about the connection ends it."""
        stream, before = self._stream, (self._stream.tx, self._stream.rx)
        self._channel.until = time.monotonic() + self.timeout
        dirty: str | None = "lost"
        try:
            value = self._conn.call(name, args)
            if type(value) not in kinds:
                raise ProtocolViolation(f"{name} was answered with {type(value).__name__}")
            dirty = None
            return value, stream.tx - before[0], stream.rx - before[1]
        except LsplitError:  # the host's own typed answer, or a limit of ours: the connection is in order
            dirty = "error"
            raise
        except (Stalled, TimeoutError):
            raise HostTimeout(f"The host at {self.address} did not answer {name} within {self.timeout:g} s.") from None
        except ProtocolViolation as err:
            raise FrameError(f"The host broke the wire's rules: {safe_text(err)}.") from None
        except (EOFError, OSError):
            raise HostUnavailable(
                f"The connection to {self.address} broke in {name}; the host may have ended."
            ) from None
        except Exception as err:
            raise FrameError(
                f"The host's answer to {name} does not have the agreed form ({type(err).__name__})."
            ) from None
        finally:
            if name != "hello" and dirty:  # hello's bytes are noted with the handshake's
                self._note(dirty, stream.tx - before[0], stream.rx - before[1])
                if dirty == "lost":
                    self._discard()

    def _discard(self, kind: str = "") -> None:
        stream, conn = self._stream, self._conn
        if stream is None:
            return
        tcp = self._last_tcp(stream)
        self._past_tcp = tcp
        self._past = plus(self._past, (stream.tx, stream.rx))
        self._stream = self._channel = self._conn = None
        self._sessions.clear()
        self.epoch += 1
        stream.close()
        if conn is not None:
            conn.close()
        if kind:
            self._note(kind, stream.tx, stream.rx)

    def _last_tcp(self, stream: FastStream) -> tuple[int, int] | None:
        if self._past_tcp is None or (now := stream.tcp_info()) is None:
            return None
        return plus(self._past_tcp, minus(now, self._tcp_start))

    def _note(self, kind: str, up: int, down: int) -> None:
        if self.on_control and (up or down):
            self.on_control(kind, up, down)
