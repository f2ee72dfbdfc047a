"""The door of a host: who is let in, by what proof, and under which name."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable

from ..errors import AuthError
from .gate import Gate, Terms, serial_of
from .stream import FastStream, part
from .tls import common_name
from .token import TLS_HERE, prove_to_client

TOKEN, ANYONE = "token", "anyone"  # the names of peers that have none


class Door:
    """Lets a peer in that proves the token, or over TLS what the gate's `mode` says: a certificate, it, or nothing.

    seconds: for everything that a stranger does before it is let in.
    """

    def __init__(self, token: bytes, gate: Gate | None, seconds: float) -> None:
        self.gate, self.seconds, self._token = gate, seconds, token
        self.mode = gate.mode if gate is not None else "token"  # without TLS nobody comes in without it
        # Who showed a certificate: its serial number, and the classes that it could be of.
        self._inside: dict[socket.socket, tuple[int, frozenset[bytes]]] = {}
        self._mutex, self._swept = threading.Lock(), gate.now if gate is not None else None

    def let_in(
        self, sock: socket.socket, deadline: float, clients: set[socket.socket], meet: Callable[[socket.socket], None]
    ) -> tuple[FastStream, str]:
        """The stream to a peer and the peer's name; what has to be ended with the server is put into `clients`.

        meet: is told of the socket that takes the place of the one given.
        Raises AuthError, EOFError, OSError; the socket is closed then.
        """
        end = time.monotonic() + self.seconds
        sock.settimeout(self.seconds)
        terms: Terms | None = None
        if self.gate is not None:
            self.gate.look()
            terms = self.gate.now
            sock = self._wrapped(terms.context, sock, clients)
            meet(sock)
        try:
            name = TOKEN
            if isinstance(sock, ssl.SSLSocket):
                sock.settimeout(max(end - time.monotonic(), 0.001))
                sock.do_handshake()
                if sock.selected_alpn_protocol() is None:
                    raise AuthError("the peer speaks TLS, but not this wire")
                name = common_name(sock) if self.mode == "certificate" else TOKEN if self.mode == "token" else ANYONE
            stream = FastStream(sock, deadline)
            if self.mode == "token":
                prove_to_client(stream, self._token, max(end - time.monotonic(), 0.001))
            if self.mode == "certificate" and terms is not None and isinstance(sock, ssl.SSLSocket):
                with self._mutex:
                    self._inside[sock] = serial_of(sock), terms.classes
            return stream, name
        except BaseException as err:
            if isinstance(err, ssl.SSLError):  # the peer finds the reason among the last bytes
                part(sock)
            clients.discard(sock)
            with contextlib.suppress(OSError):
                sock.close()
            raise

    def put_out(self) -> None:
        """End the connections of those whose certificate counts no more; their own threads find the end."""
        if self.gate is not None:
            self.gate.look()
            if self.gate.now is self._swept:
                return
            self._swept = self.gate.now
            with self._mutex:
                out = [sock for sock in self._inside if self.why_out(sock)]
            for sock in out:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def why_out(self, sock: socket.socket) -> str:
        """Why the certificate of somebody who was let in counts no more, "" where it does."""
        shown = self._inside.get(sock)
        if self.gate is None or shown is None:
            return ""
        (serial, classes), now = shown, self.gate.now
        if not classes <= now.classes:
            return "certificate of a class that was made anew"
        return "certificate revoked" if serial in now.revoked else ""

    def leave(self, sock: socket.socket) -> None:
        """Somebody who was let in is gone."""
        with self._mutex:
            self._inside.pop(sock, None)

    @staticmethod
    def _wrapped(tls: ssl.SSLContext, sock: socket.socket, clients: set[socket.socket]) -> socket.socket:
        if sock.recv(1, socket.MSG_PEEK) != b"\x16":  # TLS begins with it; others hear in clear what is the matter
            sock.sendall(TLS_HERE)
            part(sock)
            raise AuthError("the peer does not speak TLS")
        wrapped = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        clients.add(wrapped)
        return wrapped
