"""RPyC without its machinery: both ends know ping, close and named calls on primitives, no references.

Private rpyc names used here and in server.py (held by a contract test, hence the pin rpyc>=6.0.2,<6.1):
_protocol, _request_handlers, _handle_ping, _handle_close, _local_root, _box, _unbox, _box_exc, _unbox_exc,
_send, _get_seq_id, _HANDLERS, _cleanup, _closed, _channel, _accept_method,
_authenticate_and_serve_client, _serve_client.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
import traceback
from types import TracebackType
from typing import Any

import rpyc
from rpyc.core import brine, consts
from rpyc.core.channel import Channel
from rpyc.core.protocol import Connection

from ..errors import Busy, CacheMiss, FrameError, HostError, LimitExceeded, LsplitError, by_code
from ..wire.events import tell
from .brinewalk import Refused, walk
from .stream import FastStream, Gone

MAX_FRAME = 16 << 20

CONFIG = dict.fromkeys(
    (
        "allow_safe_attrs",
        "allow_exposed_attrs",
        "allow_public_attrs",
        "allow_all_attrs",
        "allow_getattr",
        "allow_setattr",
        "allow_delattr",
        "allow_pickle",
        "include_local_traceback",
        "include_local_version",
        "instantiate_custom_exceptions",
        "import_custom_exceptions",
        "propagate_SystemExit_locally",
        "propagate_KeyboardInterrupt_locally",
        "bind_threads",
    ),
    False,
) | {"close_catchall": True}

_PLACE = re.compile(r" Place ([1-9][0-9]{0,8}) in its queue\.$")  # ends the text of a Busy that knows it

# These describe one side's own sockets and disk: a peer has no business raising them, nor a path to tell.
_HOME_ONLY = {"error", "host-unavailable", "host-timeout", "auth", "weights", "capture"}


class ProtocolViolation(EOFError):
    """The peer broke the wire's rules; an EOFError, so that rpyc drops the connection."""


class LimitedChannel(Channel):
    """Frames without compression, refused by their size before anything is allocated (`max_frame` bytes)."""

    __slots__ = ("got", "max_frame", "until")

    def __init__(self, stream: FastStream, max_frame: int = MAX_FRAME) -> None:
        super().__init__(stream, compress=False)
        self.max_frame = max_frame
        self.got = 0  # bytes of the last frame received
        self.until = float("inf")  # the client's own deadline for the call in flight

    def recv(self) -> memoryview:
        """Receive one whole frame within the stream's deadline."""
        end = min(time.monotonic() + self.stream.deadline, self.until)
        size, compressed = self.FRAME_HEADER.unpack(self.stream.read(self.FRAME_HEADER.size, end))
        if compressed or not 2 <= size <= self.max_frame:
            self._refuse(f"a frame of {size} bytes (compressed: {compressed}) is not between 2 and {self.max_frame}")
        frame = self.stream.read(size + 1, end)
        if frame[-1] != self.FLUSHER[0]:
            self._refuse("a frame does not end where it says")
        self.got = self.FRAME_HEADER.size + size + 1
        data = memoryview(frame)[:size]
        try:
            walk(data[1:])
        except Refused as err:
            self._refuse(str(err))
        return data

    def send(self, data: bytes) -> None:
        """Send one frame in one write; raise LimitExceeded, before a byte leaves, when it is too large."""
        if len(data) > self.max_frame:
            raise LimitExceeded(
                f"A frame of {len(data):,} bytes is over the limit of {self.max_frame:,}; send fewer positions at once."
            )
        end = min(time.monotonic() + self.stream.deadline, self.until)
        self.stream.write(b"".join((self.FRAME_HEADER.pack(len(data), 0), data, self.FLUSHER)), end)

    def _refuse(self, why: str) -> None:
        self.stream.close()
        raise ProtocolViolation(why)


class _Handlers(dict):
    def __missing__(self, key: object) -> None:
        raise FrameError("Only ping, close and named calls exist on this wire.")


class PrimitiveConnection(Connection):
    """A connection, used by both ends, that never makes or accepts a reference."""

    @classmethod
    def _request_handlers(cls) -> dict:
        return _Handlers(
            {
                consts.HANDLE_PING: cls._handle_ping,
                consts.HANDLE_CLOSE: cls._handle_close,
                consts.HANDLE_CALLATTR: cls._handle_named,
            }
        )

    _closed: bool
    _client = property(lambda self: str(self._config.get("credentials") or ""))  # what the host calls the peer

    def ask(self, name: str, args: tuple) -> int:
        """Ask the host for `name(*args)`; return the number that its answer will bear."""
        seq = self._get_seq_id()
        self._send(consts.MSG_REQUEST, seq, (consts.HANDLE_CALLATTR, self._box((None, name, args, ()))))
        return seq

    def deserted(self) -> bool:
        """Whether the peer went away, so that nobody waits for an answer."""
        return self._channel.stream.gone()

    def answered(self, seq: int) -> object:
        """The answer to question `seq`, the only frame that may come next."""
        data = self._channel.recv()
        answered, value = brine.load(data[1:])
        if data[0] not in (consts.MSG_REPLY, consts.MSG_EXCEPTION) or answered != seq:
            raise ProtocolViolation("something else than the answer to the question in flight")
        if data[0] == consts.MSG_EXCEPTION:
            raise self._unbox_exc(value)
        return self._unbox(value)

    def answer(self, idle: float) -> bool:
        """Wait `idle` seconds for a question and answer it; False when none came."""
        if not self._channel.poll(idle):
            return False
        data = self._channel.recv()
        if data[0] != consts.MSG_REQUEST:
            raise ProtocolViolation("an answer to a question that was not asked")
        match brine.load(data[1:]):
            case (int() as number, (kind, package)) if type(number) is int:
                pass
            case _:
                raise ProtocolViolation("a question is (number, (kind, value))")
        self._send(*self._answer_to(number, kind, package))
        return True

    def _answer_to(self, number: int, kind: object, package: object) -> tuple[int, int, object]:
        """As rpyc's dispatch, but bytes become no argument list, and no kept traceback keeps a frame's memory alive."""
        try:
            args = self._unbox(package)
            if type(args) is not tuple:
                raise FrameError("Arguments come as a tuple.")
            return consts.MSG_REPLY, number, self._box(self._HANDLERS[kind](self, *args))
        except Gone:  # ends the connection
            raise
        except BaseException as err:
            return consts.MSG_EXCEPTION, number, self._box_exc(type(err), err, err.__traceback__)

    def _send(self, msg: int, seq: int, args: object) -> None:
        """Send at once: a connection belongs to one thread at a time, so rpyc's queue and locks have no work."""
        self._channel.send(brine.I1.pack(msg) + brine.dump((seq, args)))

    def close(self) -> None:
        """Close the socket at once: asking a frozen peer to agree would wait for its answer."""
        if not self._closed:
            self._closed = True
            self._channel.close()
            self._cleanup()

    def _handle_ping(self, *said: object) -> object:
        if len(said) != 1:
            raise FrameError("A ping brings one value.")
        return said[0]

    def _handle_close(self, *said: object) -> None:
        if said:
            raise FrameError("The end of a connection brings no value.")
        super()._handle_close()

    def _handle_named(self, *call: object) -> object:
        if len(call) != 4 or call[0] is not None or type(call[2]) is not tuple or call[3] != ():
            raise FrameError("A call is (None, name, arguments, ()).")
        name, args, methods = call[1], call[2], self._local_root.WIRE_METHODS
        if type(name) is not str or name not in methods:
            raise FrameError(f"The host has no such method; it has {', '.join(sorted(methods))}.")
        result = getattr(self._local_root, "exposed_" + name)(*args)
        # Checked here, inside rpyc's try block, because _box and the channel run outside it.
        if not brine.dumpable(result):
            raise TypeError(f"{name} returned something that is not a primitive")
        if _size(result) > self._channel.max_frame:
            raise LimitExceeded(f"The answer is over the frame limit of {self._channel.max_frame:,} bytes.")
        return result

    def _box(self, obj: object) -> tuple[int, object]:
        if not brine.dumpable(obj):
            raise FrameError("Only None, bools, ints, text, bytes and tuples of these cross the wire.")
        return consts.LABEL_VALUE, obj

    def _unbox(self, package: object) -> object:
        if type(package) is not tuple or len(package) != 2 or package[0] != consts.LABEL_VALUE:
            raise ProtocolViolation("an object by reference was refused")
        return package[1]

    def _box_exc(self, typ: type, val: BaseException, tb: TracebackType | None) -> tuple[str, str, str, int]:
        request = secrets.token_hex(4)
        if isinstance(val, ProtocolViolation):
            val = FrameError(str(val))
        if isinstance(val, LsplitError) and val.code not in _HOME_ONLY:
            tell("request refused", client=self._client, request=request, code=val.code, why=safe_text(val))
            return (
                val.code,
                _text(val),
                request,
                _number(val),
            )
        for line in "".join(traceback.format_exception(typ, val, tb)).splitlines():  # a peer's text may be in it
            tell("request failed", logging.ERROR, client=self._client, request=request, trace=safe_text(line))
        return HostError.code, "internal error", request, 0

    def _unbox_exc(self, raw: object) -> LsplitError:
        if type(raw) is not tuple or [type(item) for item in raw] != [str, str, str, int]:
            raise ProtocolViolation("a malformed error")
        return rebuild(*raw)


class PrimitiveService(rpyc.Service):
    """A service whose WIRE_METHODS are all that a peer can call; the local side's is empty."""

    _protocol = PrimitiveConnection
    WIRE_METHODS: frozenset[str] = frozenset()


def safe_text(value: object) -> str:
    """Return at most 400 printable characters of a text."""
    return "".join(ch if ch.isprintable() else "?" for ch in str(value)[:400])


def rebuild(code: str, text: str, request: str, have: int) -> LsplitError:
    """Return the kit's own error for (code, text, request id, have) as it came over the wire."""
    text, request = safe_text(text), safe_text(request)[:16]
    cls = None if code in _HOME_ONLY else by_code().get(code)
    if cls is CacheMiss:
        error: LsplitError = CacheMiss(text, have)
    elif cls is Busy:
        place = _PLACE.search(text)
        error = Busy(text, have / 1000, int(place[1]) if place else 0)
    elif cls is HostError:
        error = HostError(f"The host failed inside; its log has the details under request {request}.")
    elif cls is None:
        error = HostError(f"The host answered with an unknown error {safe_text(code)[:40]!r}: {text}")
    else:
        error = cls(text)
    error.request_id = request
    return error


def _text(error: LsplitError) -> str:
    """The text that crosses with an error. A place in a queue goes with it, for a peer that knows four fields."""
    if isinstance(error, Busy) and 0 < error.position < 10**9:
        place = f" Place {error.position} in its queue."
        return safe_text(str(error)[: 400 - len(place)]) + place
    return safe_text(error)


def _number(error: LsplitError) -> int:
    """The number that crosses with an error: positions of a cache miss, milliseconds until a busy host is free."""
    if isinstance(error, Busy):
        return max(1, round(error.retry_after * 1000))
    return have if type(have := getattr(error, "have", 0)) is int else 0


def _size(value: Any) -> int:
    if type(value) in (tuple, frozenset):
        return 8 + sum(map(_size, value))
    return 32 + (len(value) * (1 if type(value) is bytes else 4) if type(value) in (bytes, str) else 0)
