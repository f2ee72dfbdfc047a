"""The listening side: a thread per connection, few connections, a deadline for all a stranger may delay."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import socket
import ssl
import threading
import time
from collections import Counter
from typing import Any

from rpyc.utils.factory import connect_channel
from rpyc.utils.server import ThreadedServer

from ..errors import AuthError, Busy
from ..wire.events import NOTICE, log, tell
from .address import address_of
from .door import ANYONE, TOKEN, Door
from .gate import Gate
from .protocol import CONFIG, MAX_FRAME, LimitedChannel, PrimitiveService, safe_text
from .stream import TlsError, seconds

HANDSHAKE_SECONDS = 5.0
MOST_STRANGERS = 64  # connections without a place; each costs a thread
RETRY_SECONDS = 5.0  # until a host without a free place is asked again
_numbers = itertools.count(1)  # of connections
_silent = log.getChild("rpyc")  # what it says of connections is said below
_silent.setLevel(logging.WARNING)
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}


class Full(PrimitiveService):
    """What a host without a free place for a peer answers; `mine`: as many as its name may have are open, 0: full."""

    WIRE_METHODS = frozenset({"hello"})

    def __init__(self, mine: int) -> None:
        self._mine = mine
        self.why = "its name has its share of places" if mine else "no place is free"

    def exposed_hello(self, *args: object) -> None:
        """Busy, always."""
        again = f"try again in {RETRY_SECONDS:g} s."
        if not self._mine:
            raise Busy(f"This host has no free place for you; {again}", RETRY_SECONDS)
        open_ = (
            "1 connection under your name is" if self._mine == 1 else f"{self._mine} connections under your name are"
        )
        raise Busy(f"{open_} open, and this host allows no more: close one (lm.close()), or {again}", RETRY_SECONDS)


class StrictServer(ThreadedServer):
    """Serves a service class (not an instance) to peers that prove `token`; with a `gate`, over TLS, what it asks for.

    `max_clients` connections at once, `max_each` of one name of a certificate, others are told that it is busy; one
    idle for `idle` seconds ends, a frame has `deadline` seconds, all that a peer does before it is let in `handshake`
    seconds. What the host calls the peer, its certificate's name or
    "token/7", is the connection's `credentials`.
    """

    def __init__(
        self,
        service: type[PrimitiveService],
        token: bytes,
        hostname: str = "127.0.0.1",
        port: int = 0,
        *,
        max_clients: int = 8,
        max_each: int = 4,
        max_frame: int = MAX_FRAME,
        idle: float = 1800.0,
        deadline: float = 60.0,
        handshake: float = HANDSHAKE_SECONDS,
        gate: Gate | None = None,
    ) -> None:
        for name, value in (("idle", idle), ("deadline", deadline), ("handshake", handshake)):
            seconds(value, name)
        super().__init__(
            service,
            hostname=hostname,
            port=port,
            ipv6=":" in hostname,
            protocol_config=dict(CONFIG),
            logger=_silent,
        )
        self._door, self._max_clients, self._max_each = Door(token, gate, handshake), max_clients, max_each
        self._named: Counter[str] = Counter()  # places taken, by name
        self._counting = threading.Lock()
        self._strangers: dict[int, socket.socket] = {}  # by thread, who has no place (yet), the longest here first
        self._threads = threading.BoundedSemaphore(max_clients + 2 * MOST_STRANGERS)
        self._max_frame, self._idle, self._deadline = max_frame, idle, deadline

    @property
    def address(self) -> str:
        """The address for a link, "rpyc://host:port", or "rpycs://host:port" with TLS."""
        return address_of(self.host, self.port, self._door.gate is not None)

    def sweep(self) -> None:
        """End the connections of those whose certificate counts no more; to be called now and then."""
        self._door.put_out()

    def accept(self) -> None:
        """As rpyc's, but a machine short of descriptors makes the next client wait; it does not end the host."""
        try:
            super().accept()
        except EOFError as err:
            if not (isinstance(err.__context__, OSError) and err.__context__.errno in _PASSING):
                raise
            tell("no connection could be taken", logging.WARNING, why=str(err.__context__.strerror))
            time.sleep(0.1)

    def _accept_method(self, sock: socket.socket) -> None:
        if not self._threads.acquire(blocking=False):
            self.clients.discard(sock)
            sock.close()
            return
        try:
            super()._accept_method(sock)
        except RuntimeError as err:  # no thread can be started
            tell("no connection could be taken", logging.WARNING, why=str(err))
            self.clients.discard(sock)
            sock.close()
            self._threads.release()

    def _authenticate_and_serve_client(self, sock: socket.socket) -> None:
        self._meet(sock)
        try:
            super()._authenticate_and_serve_client(sock)
        finally:
            with self._counting:
                self._strangers.pop(threading.get_ident(), None)
            sock.close()
            self._threads.release()

    def _meet(self, sock: socket.socket) -> None:
        """This thread has a stranger. Who can prove something does so at once: the one that is here longest goes."""
        me = threading.get_ident()
        with self._counting:
            if me not in self._strangers and len(self._strangers) >= MOST_STRANGERS:
                longest = self._strangers.pop(next(iter(self._strangers)))
                with contextlib.suppress(OSError):  # its own thread finds the end and cleans up
                    socket.socket.shutdown(longest, socket.SHUT_RDWR)
            self._strangers[me] = sock

    def _take_place(self, name: str) -> Full | None:
        """None when a peer may stay, else what it hears: there is no place, or its name has its share of them."""
        with self._counting:
            mine = self._named[name] if name not in (TOKEN, ANYONE) else 0
            if mine >= self._max_each or self._named.total() >= self._max_clients:
                return Full(mine if mine >= self._max_each else 0)
            self._named[name] += 1
            self._strangers.pop(threading.get_ident(), None)
            return None

    def _leave_place(self, name: str) -> None:
        with self._counting:
            self._named[name] -= 1
            self._named += Counter()  # names without a place are forgotten

    def _serve_client(self, sock: socket.socket, credentials: object) -> None:
        channel, conn, place, name, inside = None, None, False, "", None
        came, event, level, cause, why = time.monotonic(), "stranger left", logging.INFO, None, ""
        who: dict[str, Any] = {}
        try:
            who = {"address": sock.getpeername()[0]}
            stream, name = self._door.let_in(sock, self._deadline, self.clients, self._meet)
            channel, inside, name = LimitedChannel(stream, self._max_frame), stream.sock, safe_text(name)
            # Those without a certificate are told apart by connection.
            client = f"{name}/{next(_numbers)}" if name in (TOKEN, ANYONE) else name
            who, full = {"client": client} | who, self._take_place(name)
            place = full is None
            if full is not None:
                event, level, why = "turned away", logging.WARNING, full.why
                conn = connect_channel(channel, full, dict(self.protocol_config))
                conn.answer(self._door.seconds)
                return
            if out := self._door.why_out(inside):  # between the handshake and now
                raise AuthError(out)
            event, level = "disconnected", NOTICE
            tell("connected", NOTICE, **who)
            conn = connect_channel(channel, self.service, dict(self.protocol_config, credentials=client))
            while not conn.closed:
                if not conn.answer(self._idle):
                    why = "idle"
                    break
        except (AuthError, TlsError, ssl.SSLError) as err:
            why = why or safe_text(TlsError(err) if isinstance(err, ssl.SSLError) else err)
            event, level = ("turned away", NOTICE) if event == "stranger left" else (event, level)
        except (EOFError, OSError) as err:
            why = why or str(err)
        except Exception as err:  # a peer's nonsense ends its own connection, never the thread's neighbours
            cause = err
        finally:
            if channel is not None:
                channel.close()
            if conn is not None:
                conn.close()
            if place:
                self._leave_place(name)
            if inside is not None:
                why = self._door.why_out(inside) or why
                self._door.leave(inside)
            tell(event, level, cause, **who, seconds=round(time.monotonic() - came, 3), **({"why": why} if why else {}))
            self.clients.discard(inside)
