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
    VersionMismatch,
)
from ..wire.link import NOTHING, ControlHook, Message, about, timings_from_wire
from ..wire.message import PROTOCOL, Exchange, HostInfo, Open
from .address import is_over_tls, parse_address
from .protocol import (
    CONFIG,
    MAX_FRAME,
    LimitedChannel,
    PrimitiveService,
    safe_text,
)
from .service import info_from_wire
from .stream import FastStream, Stalled, TlsError, seconds, tcp_info
from .talk import Talk
from .tls import Ticket
from .token import find_token, prove_to_host
from .versions import versions
from .watching import AskedLink

CONNECT_SECONDS = 5.0
READ_AHEAD = 64 << 20  # bytes of answers taken in while our own questions cannot go out


class RpycLink(Talk, AskedLink, Card):
    """A link to the host at `address` ("rpyc://127.0.0.1:18861"); connects at once, and again when it must.

    timeout: seconds for a whole call; fingerprint (hex), start, stop, dtype: what the host must serve (empty
    or None: what it holds); token: 32 bytes, else the token file; certificate: for rpycs://, a bundle's path, else
    LSPLIT_CERTIFICATE; max_frame: bytes; connect=False: not yet. Raises HostUnavailable, HostTimeout, AuthError,
    VersionMismatch, FingerprintMismatch, Busy and FrameError.
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
        certificate: str | os.PathLike[str] | None = None,
        max_frame: int = MAX_FRAME,
        on_control: ControlHook | None = None,
        connect: bool = True,
    ) -> None:
        Talk.__init__(self, address, seconds(timeout, "timeout"), on_control)
        self._where = parse_address(address)
        self._ticket = Ticket(certificate) if is_over_tls(address) else None
        self._asked = (fingerprint, -1 if start is None else start, -1 if stop is None else stop, dtype)
        self._token, self._max_frame = token, max_frame
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._closed = False
        if connect:
            self.greet()

    info: HostInfo

    def greet(self) -> None:
        """Connect, where there is no connection; raises what making the link does."""
        with self._lock:
            self._ensure()

    def rest(self) -> None:
        """End the connection and not the link: the next session connects again."""
        with self._lock:
            self._discard()

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
            self._drop(session)
            self._ask("step", (self._theirs(session), *step.to_wire()), session)
        return self.receive(session)

    def send(self, session: int, step: Message) -> None:
        """Send one step and go on; raises SessionUnknown when the session's connection is gone."""
        with self._lock:
            self._drop_if_dead()
            self._ask("step", (self._theirs(session), *step.to_wire()), session)

    def receive(self, session: int) -> Exchange:
        """The answer to a session's oldest step under way; raises SessionUnknown when it has none."""
        while True:
            with self._lock:  # for one answer at a time: those of others may come before ours
                if self._came.get(session):
                    came = self._came[session].popleft()
                    if isinstance(came, LsplitError):
                        raise came
                    return Exchange(*came)
                if not self._under_way(session):
                    raise self._unknown(NOTHING)
                self._take_in()

    def drop(self, session: int) -> None:
        """Read and forget the answers to a session's steps under way."""
        with self._lock:
            self._drop(session)

    def ready(self, session: int, seconds: float = 0.0) -> bool:
        """Whether the answer to a session's oldest step, or the end of its connection, comes within `seconds`."""
        with self._lock:
            return self._comes(session, time.monotonic() + seconds)

    def abandon(self, session: int) -> None:
        """Let go of a session and of its steps under way: their connection ends, and the host stops computing.

        Where other sessions have steps under way the connection goes on, and the host comes to all that were sent.
        """
        with self._lock:
            self._under_way(session)  # in a fork nothing is
            if any(asked.session != session and asked.session in self._sessions for asked in self._asked_for):
                number = self._sessions.pop(session, None)
                self._forget(session)
                with contextlib.suppress(LsplitError):  # a host that is gone has forgotten already
                    if number is not None:
                        self._ask("close_session", (number,))  # its answer is read by whoever reads next
            elif self._asked_for:
                self._discard("dropped")
        with contextlib.suppress(LsplitError):
            self.close_session(session)

    def close_session(self, session: int) -> None:
        """Tell the host to forget a session; nothing is sent when its connection is gone."""
        with self._lock:
            self._drop_if_dead()
            number = self._sessions.pop(session, None)
            if number is not None:
                self._forget(session)
                _, up, down = self._call("close_session", (number,), (type(None),))
                self._note("close", up, down)

    def calibrate(self, raw: bytes) -> None:
        """Give the host a calibration file that it does not have."""
        with self._lock:
            self._ensure()
            _, up, down = self._call("calibrate", (raw,), (type(None),))
            self._note("calibrate", up, down)

    def timings(self) -> list[tuple[int, int, int]]:
        """(waiting, codec, computing) at the host in microseconds, for each step since the last question."""
        with self._lock:
            self._drop_if_dead()
            if self._conn is None:
                return []
            raw, up, down = self._call("timings", (), (bytes,))
            self._note("timings", up, down)
            return timings_from_wire(raw)

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
        sealed = {} if self._ticket is None else {"sealed": f"TLS 1.3, {self._ticket.path.name}"}
        return f"Link: {self.address}", {"state": state, **sealed, **about(self.info)}

    def _connect(self) -> None:
        if self._closed:
            raise HostUnavailable(f"The link to {self.address} is closed; make a new one.")
        wait = min(self.timeout, CONNECT_SECONDS)
        end = time.monotonic() + wait
        sock, mode = self._dial(wait), "token"
        self._tcp_start = tcp_info(sock) or (0, 0)
        if self._ticket is not None:
            sock.settimeout(max(end - time.monotonic(), 0.001))
            try:
                sock, mode = self._ticket.enter(sock, self._where[0], self.address)
            except BaseException:
                sock.close()
                raise
        self._stream, self._owner = FastStream(sock, self.timeout, READ_AHEAD), os.getpid()
        if self._closed:  # close() came while we dialled
            self._discard()
            raise HostUnavailable(f"The link to {self.address} is closed; make a new one.")
        if self._past_tcp is not None and self._stream.tcp_info() is None:
            self._past_tcp = None
        try:
            if mode == "token":
                token = self._token if self._token is not None else lambda: find_token(*self._where)
                prove_to_host(self._stream, token, max(end - time.monotonic(), 0.001))
            self._channel = LimitedChannel(self._stream, self._max_frame)
            self._conn = connect_channel(self._channel, PrimitiveService, CONFIG)
            answer, _, _ = self._call("hello", (PROTOCOL, *versions(), *self._asked), (tuple,))
            self._accept(info_from_wire(answer))
        except AuthError:
            self._discard()
            raise
        except TlsError as err:  # a host refuses a certificate after we think that all is well
            self._discard()
            raise self._ticket.explain(err.error, self._where[0], self.address) from None
        except Stalled:
            self._discard()
            raise HostTimeout(f"{self.address} did not answer the handshake within {wait:g} s.") from None
        except (EOFError, ConnectionError) as err:
            self._discard()
            if isinstance(err, LsplitError) and type(err) is not HostUnavailable:
                raise
            raise HostUnavailable.nobody(
                f"{self.address} ended the handshake; it may be full, or no lsplit host."
            ) from None
        except BaseException:
            self._discard()
            raise
        self._explained = (self._stream.tx, self._stream.rx)
        self._note("hello", *self._explained)  # with the token handshake's bytes

    def _dial(self, wait: float) -> socket.socket:
        try:
            return socket.create_connection(self._where, timeout=wait)
        except TimeoutError:
            raise HostTimeout(f"No host answered at {self.address} within {wait:g} s.") from None
        except UnicodeError:
            raise FrameError(f"{safe_text(self.address)!r} names no machine; try rpyc://127.0.0.1:18861.") from None
        except OSError as err:
            raise HostUnavailable.nobody(
                f"No host answers at {self.address} ({err.strerror or err}); start one first."
            ) from None

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

    def _theirs(self, session: int) -> int:
        if session not in self._sessions:
            raise self._unknown(f"Session {session} ended with its connection; it has to be opened and replayed.")
        return self._sessions[session]
