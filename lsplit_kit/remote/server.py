"""The listening side: a thread per connection, few connections, a deadline for all a stranger may delay."""

from __future__ import annotations

import socket
import threading

from rpyc.utils.factory import connect_channel
from rpyc.utils.server import ThreadedServer

from ..errors import AuthError
from .protocol import CONFIG, MAX_FRAME, LimitedChannel, PrimitiveService, log
from .stream import FastStream
from .token import prove_to_client

HANDSHAKE_SECONDS = 5.0


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
        super().__init__(
            service,
            hostname=hostname,
            port=port,
            ipv6=":" in hostname,
            protocol_config=dict(CONFIG),
            logger=log,
        )
        self._token, self._slots = token, threading.BoundedSemaphore(max_clients)
        self._max_frame, self._idle, self._deadline, self._handshake = max_frame, idle, deadline, handshake

    @property
    def address(self) -> str:
        """The address for a link, "rpyc://host:port"."""
        return f"rpyc://[{self.host}]:{self.port}" if ":" in self.host else f"rpyc://{self.host}:{self.port}"

    def _accept_method(self, sock: socket.socket) -> None:
        if not self._slots.acquire(blocking=False):
            log.warning("all places are taken; a connection was sent away")
            self.clients.discard(sock)
            sock.close()
            return
        super()._accept_method(sock)

    def _authenticate_and_serve_client(self, sock: socket.socket) -> None:
        try:
            super()._authenticate_and_serve_client(sock)
        finally:
            sock.close()
            self._slots.release()

    def _serve_client(self, sock: socket.socket, credentials: object) -> None:
        stream = FastStream(sock, self._deadline)
        channel, conn = LimitedChannel(stream, self._max_frame), None
        try:
            prove_to_client(stream, self._token, self._handshake)
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
