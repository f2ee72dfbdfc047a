"""The socket under a connection: no Nagle delay, one write per frame, a deadline, and a byte meter."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
import ssl
import struct
import sys
import time

from rpyc.core.stream import ClosedFile, SocketStream

from ..errors import UnsupportedOption

_LINUX_TCP_INFO = 11
_AT_FIRST = 1 << 16  # bytes that a read makes room for before any has come
_RECORD = 1 << 14  # bytes inside one TLS record at most
_ACKED_OFFSET = 120  # struct tcp_info: 8 bytes, 24 uint32, 2 uint64, then bytes_acked and bytes_received


MOST_SECONDS = 86_400.0


def seconds(value: object, what: str) -> float:
    """`value` as seconds, above 0 and at most a day; raises UnsupportedOption."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MOST_SECONDS:
        raise UnsupportedOption(f"{what} takes seconds above 0 and at most {MOST_SECONDS:,.0f}, got {value!r}.")
    return float(value)


class Stalled(EOFError):
    """The peer began something and did not finish it before the deadline."""


class Gone(EOFError):
    """The peer went away while its question was still to be answered."""


class TlsError(EOFError):
    """TLS found fault with the peer, or the peer with us; `error` is what OpenSSL said."""

    def __init__(self, error: ssl.SSLError) -> None:
        why = getattr(error, "verify_message", "") or (error.reason or str(error)).lower().replace("_", " ")
        super().__init__(why)
        self.error = error


# Nothing to read, no room to write, or TLS has to read before it can write or the other way round.
_NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_ENDED: int | None = getattr(select, "POLLRDHUP", None)  # Linux: the peer says no more, whatever is still to be read


class FastStream(SocketStream):
    """A socket stream that counts bytes (`tx`, `rx`) and ends every read and write in `deadline` seconds.

    Over a TLS socket the bytes are those inside TLS.

    ahead: bytes that it reads while it has to wait with writing. A peer that answers several questions in a row may
    be waiting for us to take its answers while we wait for it to take our next question: one of the two has to read.
    """

    __slots__ = ("_ahead", "_early", "_owner", "_readable", "_tls", "deadline", "rx", "tx")

    def __init__(self, sock: socket.socket, deadline: float = 60.0, ahead: int = 0) -> None:
        super().__init__(sock)
        self.deadline, self.tx, self.rx, self._owner = deadline, 0, 0, os.getpid()
        self._ahead, self._early, self._tls = ahead, bytearray(), isinstance(sock, ssl.SSLSocket)
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
        """Say whether bytes can be read; over TLS it raises EOFError or OSError when the connection ended.

        Bytes that TLS has decrypted already are invisible to select(), and what select() sees may be TLS's own: there
        only reading tells.
        """
        if self._early:
            return True
        if not self._tls:
            return bool(self._readable.select(max(timeout, 0)))
        end = time.monotonic() + timeout
        while not self._take(_RECORD):
            if not self._readable.select(max(end - time.monotonic(), 0)):
                return False
        return True

    @property
    def full(self) -> bool:
        """Whether more than half of what may be read ahead is here."""
        return len(self._early) > self._ahead // 2

    def gone(self) -> bool:
        """Whether the peer ended its side or the kernel gave the connection up; asked beside a thread that reads.

        What the peer had still sent is left alone: its end is behind that, and inside TLS it cannot be seen at all.
        """
        if self.closed:
            return True
        try:
            if _ENDED is not None:
                ended = select.poll()  # one for each question: two threads may ask at once
                ended.register(self.sock, _ENDED)
                return bool(ended.poll(0))
            return not socket.socket.recv(self.sock, 1, socket.MSG_PEEK)  # bytes not read yet hide an end behind them
        except BlockingIOError:
            return False
        except (EOFError, OSError, TypeError, ValueError):  # closed on this side, just now
            return True

    def _take(self, most: int) -> bool:
        """Read ahead what is there; False when nothing is."""
        try:
            got = self.sock.recv(most)
        except _NOT_YET:
            return False
        if not got:
            raise EOFError("the peer closed the connection")
        self._early += got
        self.rx += len(got)
        return True

    def read(self, count: int, end: float | None = None) -> bytearray:
        """Read exactly `count` bytes before `end` (time.monotonic() seconds); raise EOFError or Stalled."""
        end = time.monotonic() + self.deadline if end is None else end
        got = min(count, len(self._early))
        buffer = bytearray(min(count, max(got, _AT_FIRST)))
        buffer[:got] = self._early[:got]
        del self._early[:got]
        try:
            while got < count:
                if got == len(buffer):  # a size is soon said: memory follows what has really come
                    buffer.extend(bytes(min(count - got, got)))
                try:
                    with memoryview(buffer) as view, view[got:] as rest:
                        more = self.sock.recv_into(rest)
                except _NOT_YET as why:
                    if not self._wait(why, selectors.EVENT_READ, end):
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
                except _NOT_YET as why:
                    self._wait_for_room(why, end)
                    continue
                sent += more
                self.tx += more
        except (EOFError, OSError) as err:
            raise self._ended(err) from None

    def _wait_for_room(self, why: OSError, end: float) -> None:
        room = self._ahead - len(self._early)
        ready = self._wait(why, selectors.EVENT_WRITE | (selectors.EVENT_READ if room > 0 else 0), end)
        if not ready:
            raise Stalled("the peer does not take our bytes")
        if ready & selectors.EVENT_READ and room > 0:
            self._take(min(room, 1 << 16))

    def _wait(self, why: OSError, events: int, end: float) -> int:
        """Wait until `end` for `events`, or for what TLS asks for; returns what came, 0 for nothing."""
        if isinstance(why, ssl.SSLWantReadError):
            events = selectors.EVENT_READ
        elif isinstance(why, ssl.SSLWantWriteError):
            events = selectors.EVENT_WRITE if events == selectors.EVENT_READ else events
        timeout = max(end - time.monotonic(), 0)
        if events == selectors.EVENT_READ:  # the common case has its selector ready
            return events if self._readable.select(timeout) else 0
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, events)
            ready = selector.select(timeout)
        return ready[0][1] if ready else 0

    def _ended(self, err: EOFError | OSError) -> EOFError:
        """Close the stream after any failure; an OSError becomes an EOFError."""
        if self._tls and isinstance(err, (ConnectionError, ssl.SSLEOFError)):  # why may have come before the end
            try:
                self.sock.recv(1)
            except OSError as told:
                err = told if "ALERT" in (getattr(told, "reason", "") or "") else err
        self.close()
        if isinstance(err, ssl.SSLError) and not isinstance(err, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return TlsError(err)
        return err if isinstance(err, EOFError) else EOFError(str(err))

    def tcp_info(self) -> tuple[int, int] | None:
        """The kernel's (bytes acknowledged, bytes received) here; None where it does not tell."""
        return None if self.closed else tcp_info(self.sock)


def tcp_info(sock: socket.socket) -> tuple[int, int] | None:
    """The kernel's (bytes acknowledged, bytes received) on a TCP socket; None where it does not tell."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, _LINUX_TCP_INFO, 256)
    except OSError:
        return None
    if len(raw) < _ACKED_OFFSET + 16:
        return None
    return struct.unpack_from("=QQ", raw, _ACKED_OFFSET)


def part(sock: socket.socket, seconds: float = 1.0) -> None:
    """Say no more, and take in what still comes: a reset would overtake our last words. Under TLS as well."""
    end = time.monotonic() + seconds
    with contextlib.suppress(OSError):  # socket's own methods, for a TLS socket that failed has no others
        socket.socket.shutdown(sock, socket.SHUT_WR)
        for _ in range(64):
            sock.settimeout(max(end - time.monotonic(), 0.001))
            if not socket.socket.recv(sock, 1 << 14):
                return


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
