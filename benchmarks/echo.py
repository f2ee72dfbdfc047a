"""Children that send back what they get: a bare TCP socket, and a service on the kit's real connection.

python benchmarks/echo.py tcp|rpyc|FOLDER [CORE]     prints its port, ends when its stdin ends

A folder is a class's: the kit's connection over TLS, with certificates.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

from lsplit_kit.remote.gate import Gate
from lsplit_kit.remote.protocol import PrimitiveService
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import info_to_wire
from lsplit_kit.remote.token import new_token, write_token
from lsplit_kit.wire.message import PROTOCOL, HostInfo

INFO = HostInfo(PROTOCOL, "echo", "", "", "echo", "", 0, 1, 1, "", (), 16 << 20, 1, 1, 0, (0, 1))


class EchoService(PrimitiveService):
    """Answers hello like a host, and `echo(bytes)` with the same bytes."""

    WIRE_METHODS = frozenset({"hello", "echo"})

    def exposed_hello(self, *_: object) -> tuple:
        """Say who this is, without comparing anything."""
        return info_to_wire(INFO)

    def exposed_echo(self, payload: bytes) -> bytes:
        """The same bytes."""
        return payload


def read(sock: socket.socket, buffer: memoryview) -> bool:
    """Fill the buffer; False when the peer is gone."""
    got = 0
    while got < len(buffer):
        more = sock.recv_into(buffer[got:])
        if not more:
            return False
        got += more
    return True


def bare() -> None:
    """Echo over one TCP connection; each message is 4 bytes of length, then as many bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        sock, _ = server.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = bytearray(4)
        while read(sock, memoryview(head)):
            body = bytearray(4 + int.from_bytes(head, "big"))
            body[:4] = head
            if not read(sock, memoryview(body)[4:]):
                return
            sock.sendall(body)


def kit(folder: str | None = None) -> None:
    """Echo over the kit's locked-down RPyC connection, with a class's folder over TLS."""
    token = new_token()
    server = StrictServer(EchoService, token, gate=Gate(folder) if folder else None)
    path = write_token(server.host, server.port, token)
    threading.Thread(target=server.start, daemon=True).start()
    print(server.port, flush=True)
    try:
        sys.stdin.read()
    finally:
        path.unlink(missing_ok=True)
        server.close()


if __name__ == "__main__":
    if len(sys.argv) > 2 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[2])})
    if sys.argv[1] == "tcp":
        bare()
    else:
        kit(None if sys.argv[1] == "rpyc" else sys.argv[1])
