"""The listening side: a thread per connection, few connections, a deadline for all a stranger may delay."""

from __future__ import annotations

import errno
import socket
import threading
import time

from rpyc.utils.factory import connect_channel
from rpyc.utils.server import ThreadedServer

from ..errors import AuthError
from .protocol import CONFIG, MAX_FRAME, LimitedChannel, PrimitiveService, log
from .stream import FastStream, seconds
from .token import prove_to_client

HANDSHAKE_SECONDS = 5.0
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}


class StrictServer(ThreadedServer):
    """Serves a service class (not an instance) to peers that prove `token`.

    `max_clients` connections at once; one idle for `idle` seconds ends, a frame has `deadline` seconds, the
    token's handshake `handshake` seconds.
    """

    def __init__(
        self,
        service: type[PrimitiveService],
        token: bytes,
        hostname: str = "127.0.0.1",
        port: int = 0,
        *,
        max_clients: int = 8,
        max_frame: int = MAX_FRAME,
        idle: float = 1800.0,
        deadline: float = 60.0,
        handshake: float = HANDSHAKE_SECONDS,
    ) -> None:
        for name, value in (("idle", idle), ("deadline", deadline), ("handshake", handshake)):
            seconds(value, name)
        super().__init__(
            service,
            hostname=hostname,
            port=port,
            ipv6=":" in hostname,
            protocol_config=dict(CONFIG),
            logger=log,
        )
        self._token, self._slots = token, threading.BoundedSemaphore(max_clients)
        self._strangers = threading.BoundedSemaphore(max_clients + 64)  # before the proof a place costs a thread only
        self._max_frame, self._idle, self._deadline, self._handshake = max_frame, idle, deadline, handshake

    @property
    def address(self) -> str:
        """The address for a link, "rpyc://host:port"."""
        return f"rpyc://[{self.host}]:{self.port}" if ":" in self.host else f"rpyc://{self.host}:{self.port}"

    def accept(self) -> None:
        """As rpyc's, but a machine short of descriptors makes the next client wait; it does not end the host."""
        try:
            super().accept()
        except EOFError as err:
            if not (isinstance(err.__context__, OSError) and err.__context__.errno in _PASSING):
                raise
            log.warning("no connection could be taken: %s", err.__context__.strerror)
            time.sleep(0.1)

    def _accept_method(self, sock: socket.socket) -> None:
        if not self._strangers.acquire(blocking=False):
            self.clients.discard(sock)
            sock.close()
            return
        super()._accept_method(sock)

    def _authenticate_and_serve_client(self, sock: socket.socket) -> None:
        try:
            super()._authenticate_and_serve_client(sock)
        finally:
            sock.close()
            self._strangers.release()

    def _serve_client(self, sock: socket.socket, credentials: object) -> None:
        stream = FastStream(sock, self._deadline)
        channel, conn, place = LimitedChannel(stream, self._max_frame), None, False
        try:
            prove_to_client(stream, self._token, self._handshake)
            place = self._slots.acquire(blocking=False)
            if not place:
                log.warning("all places are taken; a client was sent away")
                return
            conn = connect_channel(channel, self.service, dict(self.protocol_config))
            while not conn.closed and conn.answer(self._idle):
                pass
        except (EOFError, AuthError, OSError) as err:
            log.info("a connection ended: %s", err)
        except Exception:  # a peer's nonsense ends its own connection, never the thread's neighbours
            log.info("a connection was dropped", exc_info=True)
        finally:
            channel.close()
            if conn is not None:
                conn.close()
            if place:
                self._slots.release()
