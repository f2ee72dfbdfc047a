"""Somebody on the line: a relay in front of a host that passes every byte on and keeps a copy of it."""

from __future__ import annotations

import contextlib
import socket
import threading

from ..card import Card
from ..errors import AuthError
from .address import address_of, is_over_tls, parse_address
from .token import find_token, write_token

CHUNK = 1 << 16


class Relay(Card):
    """`with Relay(host.address) as line: lk.split(model, body=line.address)`; `line.up` and `line.down` are the bytes.

    It listens on this machine only and passes on one connection at a time, as it is: it holds no key, and the bytes
    are what whoever watches the link has. `address` has a token file while the block runs, so that the local side finds
    the host's token. Of a host with TLS, the bytes are what TLS makes of the frames. Raises AuthError,
    UnsupportedOption.
    """

    def __init__(self, address: str) -> None:
        self._host, self._tls = parse_address(address), is_over_tls(address)
        try:
            self._token: bytes | None = find_token(*self._host)
        except AuthError:  # with certificates there is none
            if not self._tls:
                raise
            self._token = None
        self._copies = {"up": bytearray(), "down": bytearray()}
        self._ended = threading.Event()
        self._ends: tuple[socket.socket, ...] = ()

    def __enter__(self) -> Relay:
        self._door = socket.create_server(("127.0.0.1", 0))
        self._door.settimeout(0.1)
        port = self._door.getsockname()[1]
        self.address = address_of("127.0.0.1", port, self._tls)
        self._file = write_token("127.0.0.1", port, self._token) if self._token is not None else None
        self._thread = threading.Thread(target=self._serve, name="relay", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        while self._thread.is_alive():
            self._hang_up()
            self._thread.join(0.1)
        self._door.close()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    @property
    def up(self) -> bytes:
        """Every byte so far that went to the host, the handshake included."""
        return bytes(self._copies["up"])

    @property
    def down(self) -> bytes:
        """Every byte so far that the host sent."""
        return bytes(self._copies["down"])

    def _serve(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError):
                near, _ = self._door.accept()
                with near, socket.create_connection(self._host) as far:
                    self._ends = (near, far)
                    for end in self._ends:
                        end.settimeout(None)
                        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    back = threading.Thread(target=self._pass_on, args=(far, near, "down"), daemon=True)
                    back.start()  # a thread each: where both directions are full, neither may wait for the other
                    self._pass_on(near, far, "up")
                    back.join()

    def _pass_on(self, one: socket.socket, other: socket.socket, way: str) -> None:
        """Hand on what comes from `one` until either end hangs up."""
        with contextlib.suppress(OSError):
            while raw := one.recv(CHUNK):
                self._copies[way] += raw
                other.sendall(raw)
        self._hang_up()

    def _hang_up(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _card(self) -> tuple[str, dict[str, object]]:
        return "Relay", {way: f"{len(raw):,} bytes" for way, raw in self._copies.items()}
