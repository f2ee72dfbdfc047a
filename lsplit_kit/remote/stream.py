"""The socket under a connection: no Nagle delay, one write per frame, a deadline, and a byte meter."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import sys
import time

from rpyc.core.stream import ClosedFile, SocketStream

from ..errors import UnsupportedOption

_LINUX_TCP_INFO = 11
_ACKED_OFFSET = 120  # struct tcp_info: 8 bytes, 24 uint32, 2 uint64, then bytes_acked and bytes_received


MOST_SECONDS = 86_400.0


def seconds(value: object, what: str) -> float:
    """`value` as seconds, above 0 and at most a day; raises UnsupportedOption."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MOST_SECONDS:
        raise UnsupportedOption(f"{what} takes seconds above 0 and at most {MOST_SECONDS:,.0f}, got {value!r}.")
    return float(value)


class Stalled(EOFError):
    """The peer began something and did not finish it before the deadline."""


class FastStream(SocketStream):
    """A socket stream that counts bytes (`tx`, `rx`) and ends every read and write in `deadline` seconds.

    ahead: bytes that it reads while it has to wait with writing. A peer that answers several questions in a row may
    be waiting for us to take its answers while we wait for it to take our next question: one of the two has to read.
    """

    __slots__ = ("_ahead", "_early", "_owner", "_readable", "deadline", "rx", "tx")

    def __init__(self, sock: socket.socket, deadline: float = 60.0, ahead: int = 0) -> None:
        super().__init__(sock)
        self.deadline, self.tx, self.rx, self._owner = deadline, 0, 0, os.getpid()
        self._ahead, self._early = ahead, bytearray()
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(sock)
        sock.setblocking(False)  # try first and wait only when there is nothing: half the system calls
        self._readable = selectors.DefaultSelector()
        self._readable.register(sock, selectors.EVENT_READ)

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._readable.close()
        forked = self._owner != os.getpid()
        if forked and not self.closed:  # shutdown() in rpyc's close() would end the parent's
            self.sock.close()  # type: ignore[has-type]
            self.sock = ClosedFile  # type: ignore[misc]
        super().close()

    def poll(self, timeout: float) -> bool:
        """Say whether bytes can be read; bytes that TLS has already decrypted are invisible to select()."""
        pending = getattr(self.sock, "pending", None)
        early = bool(self._early) or bool(pending and pending())
        return early or bool(self._readable.select(max(timeout, 0)))

    def read(self, count: int, end: float | None = None) -> bytearray:
        """Read exactly `count` bytes before `end` (time.monotonic() seconds); raise EOFError or Stalled."""
        end = time.monotonic() + self.deadline if end is None else end
        buffer = bytearray(count)
        view, got = memoryview(buffer), min(count, len(self._early))
        view[:got] = self._early[:got]
        del self._early[:got]
        try:
            while got < count:
                try:
                    more = self.sock.recv_into(view[got:])
                except BlockingIOError:
                    if not self.poll(end - time.monotonic()):
                        raise Stalled("the peer stopped inside a frame") from None
                    continue
                if not more:
                    raise EOFError("the peer closed the connection")
                got += more
                self.rx += more  # counted as they come, so that a broken frame is in the books too
                if got < count and time.monotonic() > end:  # a drip-feed never lets us wait
                    raise Stalled("the peer stopped inside a frame")
        except (EOFError, OSError) as err:
            raise self._ended(err) from None
        return buffer

    def write(self, data: bytes, end: float | None = None) -> None:
        """Write all of `data` before `end` (time.monotonic() seconds); raise EOFError or Stalled."""
        end = time.monotonic() + self.deadline if end is None else end
        view, sent = memoryview(data), 0
        try:
            while sent < len(data):
                try:
                    more = self.sock.send(view[sent:])
                except BlockingIOError:
                    self._wait_for_room(end)
                    continue
                sent += more
                self.tx += more
        except (EOFError, OSError) as err:
            raise self._ended(err) from None

    def _wait_for_room(self, end: float) -> None:
        room = self._ahead - len(self._early)
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, selectors.EVENT_WRITE | (selectors.EVENT_READ if room > 0 else 0))
            ready = selector.select(max(end - time.monotonic(), 0))
        if not ready:
            raise Stalled("the peer does not take our bytes")
        if ready[0][1] & selectors.EVENT_READ:
            with contextlib.suppress(BlockingIOError):
                got = self.sock.recv(min(room, 1 << 16))
                if not got:
                    raise EOFError("the peer closed the connection")
                self._early += got
                self.rx += len(got)

    def _ended(self, err: EOFError | OSError) -> EOFError:
        """Close the stream after any failure; an OSError becomes an EOFError."""
        self.close()
        return err if isinstance(err, EOFError) else EOFError(str(err))

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


def plus(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Bytes (up, down) of two counts together."""
    return a[0] + b[0], a[1] + b[1]


def minus(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    """Bytes (up, down) that `a` has more than `b`."""
    return a[0] - b[0], a[1] - b[1]
