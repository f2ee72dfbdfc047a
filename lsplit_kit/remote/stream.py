"""The socket under a connection: no Nagle delay, one write per frame, a deadline, and a byte meter."""

from __future__ import annotations

import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rpyc.core.stream import SocketStream

_LINUX_TCP_INFO = 11
_ACKED_OFFSET = 120  # struct tcp_info: 8 bytes, 24 uint32, 2 uint64, then bytes_acked and bytes_received


class Stalled(EOFError):
    """The peer began something and did not finish it before the deadline."""


class FastStream(SocketStream):
    """A socket stream that counts bytes (`tx`, `rx`) and ends every read and write in `deadline` seconds."""

    __slots__ = ("deadline", "rx", "tx")

    def __init__(self, sock: socket.socket, deadline: float = 60.0) -> None:
        super().__init__(sock)
        self.deadline, self.tx, self.rx = deadline, 0, 0
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock)
        sock.setblocking(False)  # try first and wait only when there is nothing: half the system calls

    def poll(self, timeout: float) -> bool:
        """Say whether bytes can be read; bytes that TLS has already decrypted are invisible to select()."""
        pending = getattr(self.sock, "pending", None)
        return bool(pending and pending()) or super().poll(timeout)

    def read(self, count: int, end: float | None = None) -> bytearray:
        """Read exactly `count` bytes before `end` (time.monotonic() seconds); raise EOFError or Stalled."""
        end = time.monotonic() + self.deadline if end is None else end
        buffer = bytearray(count)
        view, got = memoryview(buffer), 0
        with self._closing():
            while got < count:
                try:
                    more = self.sock.recv_into(view[got:])
                except BlockingIOError:
                    self._wait(selectors.EVENT_READ, end, "the peer stopped inside a frame")
                    continue
                if not more:
                    raise EOFError("the peer closed the connection")
                got += more
                self.rx += more  # counted as they come, so that a broken frame is in the books too
                if got < count and time.monotonic() > end:  # a drip-feed never lets us wait
                    raise Stalled("the peer stopped inside a frame")
        return buffer

    def write(self, data: bytes, end: float | None = None) -> None:
        """Write all of `data` before `end` (time.monotonic() seconds); raise EOFError or Stalled."""
        end = time.monotonic() + self.deadline if end is None else end
        view, sent = memoryview(data), 0
        with self._closing():
            while sent < len(data):
                try:
                    more = self.sock.send(view[sent:])
                except BlockingIOError:
                    self._wait(selectors.EVENT_WRITE, end, "the peer does not take our bytes")
                    continue
                sent += more
                self.tx += more

    def _wait(self, event: int, end: float, complaint: str) -> None:
        left = end - time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, event)
            if left <= 0 or not selector.select(left):
                raise Stalled(complaint)

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """Close the stream on any failure; an OSError becomes an EOFError."""
        try:
            yield
        except EOFError:
            self.close()
            raise
        except OSError as err:
            self.close()
            raise EOFError(str(err)) from None

    def tcp_info(self) -> tuple[int, int] | None:
        """The kernel's (bytes acknowledged, bytes received) here; None where it does not tell."""
        if not sys.platform.startswith("linux") or self.closed:
            return None
        try:
            raw = self.sock.getsockopt(socket.IPPROTO_TCP, _LINUX_TCP_INFO, 256)
        except OSError:
            return None
        if len(raw) < _ACKED_OFFSET + 16:
            return None
        return struct.unpack_from("=QQ", raw, _ACKED_OFFSET)


def keep_alive(sock: socket.socket, idle: int = 30, every: int = 10, tries: int = 3) -> None:
    """Let the kernel notice a dead peer after about `idle + every * tries` seconds of silence."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", idle), ("TCP_KEEPINTVL", every), ("TCP_KEEPCNT", tries)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
