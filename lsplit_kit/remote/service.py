"""What a host answers: nine calls and no more; sessions live and die with their connection."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import FingerprintMismatch, FrameError, VersionMismatch
from ..wire.events import tell
from ..wire.link import BodyHost, Message
from ..wire.message import MAX_TIMINGS, PROTOCOL, HostInfo, Open
from .door import TOKEN
from .protocol import PrimitiveService, safe_text
from .turns import Turns
from .watching import ASKED, Watch

if TYPE_CHECKING:
    from ..split.pool import Pool
    from ..split.sessions import Work

_HELLO = (str, str, str, str, str, int, int, str)


class HeldBody(BodyHost, Protocol):
    """A body of a host: it can serve a part [start, stop) of what it holds, and lets others go within a step."""

    owner: str
    pool: Pool

    def prepare(self) -> None:
        """Find out whatever needs a computation, before the first client comes."""

    def fork(self) -> HeldBody:
        """Return the same body with its own sessions."""

    def sub(self, start: int, stop: int) -> HeldBody:
        """Return a body over a part of the layers, with the same weights and its own sessions."""

    def work(self, number: int, step: Message) -> Work:
        """Answer one step bit by bit."""

    def joins(self, number: int, step: Message) -> object:
        """What this step may be computed together with, by name; None: nothing."""

    def close(self) -> None:
        """Forget every session."""


class BodyService(PrimitiveService):
    """One connection's view of the host's body; rpyc makes one per connection from `service_of(body)`.

    Its sessions are its own body's, so that no number leads to another connection's. Only steps wait for their turn:
    the other calls touch nothing but the connection's own sessions.
    """

    WIRE_METHODS = frozenset({"hello", "open", "step", "close_session", "calibrate", "timings", *ASKED})
    body: HeldBody
    turns: Turns
    watch: Watch

    def __init__(self) -> None:
        self._part: HeldBody | None = None
        self._waited: deque[int] = deque(maxlen=MAX_TIMINGS)  # microseconds for the turn, a step each
        self.owner = ""
        self._deserted: Callable[[], bool] = lambda: False

    def on_connect(self, conn: Any) -> None:
        """Who the peer is, as the server found out."""
        self.owner = str(conn._config.get("credentials") or TOKEN)
        self._deserted = conn.deserted
        self.watch.count(1)

    def on_disconnect(self, conn: object) -> None:
        """Forget every session of the connection that ended."""
        self.watch.count(-1)
        if self._part is not None:
            self._part.close()

    def exposed_hello(self, *args: Any) -> tuple:
        """Compare versions, fingerprint, layers and dtype; return HostInfo's fields.

        An empty fingerprint or dtype is not compared; start = stop = -1 asks for every layer the host holds.
        """
        _types("hello", args, _HELLO)
        protocol, _kit, _torch, _transformers, fingerprint, start, stop, dtype = args
        if self._part is not None:
            raise FrameError("hello comes once, at the start of a connection.")
        if protocol.split(".")[0] != PROTOCOL.split(".")[0]:
            raise VersionMismatch(
                f"The local side speaks wire {safe_text(protocol)[:20]}, the host wire {PROTOCOL}; "
                "install the same lsplit_kit on both."
            )
        first, last = self.body.info.holds
        if (start, stop) == (-1, -1):
            start, stop = first, last
        if not first <= start < stop <= last:
            raise FingerprintMismatch(
                f"The local side asks for layers [{start}, {stop}), the host holds [{first}, {last}) of "
                f"{self.body.info.model}; start a host with that model and a smaller head and tail."
            )
        own = self.body.info.dtype
        if dtype and dtype != own:
            raise FingerprintMismatch(
                f"The local side computes in {safe_text(dtype)[:20]}, the host in {own}; load both alike."
            )
        whole = (start, stop) == (self.body.info.start, self.body.info.stop)
        part = self.body.fork() if whole else self.body.sub(start, stop)  # with its own sessions
        info = part.info
        if fingerprint and fingerprint != info.fingerprint:
            raise FingerprintMismatch(
                f"The local side's weights for layers [{start}, {stop}) have fingerprint "
                f"{safe_text(fingerprint)[:12]}, "
                f"the host's ({info.model}) {info.fingerprint[:12]}; load the same model on both."
            )
        part.owner = self.owner
        self._part = part
        tell("agreed", client=self.owner, start=info.start, stop=info.stop)
        return info_to_wire(info)

    def exposed_open(self, *args: Any) -> int:
        """Open a session with (policy, up codec, down codec); return its number on this connection."""
        _types("open", args, (str, str, str))
        terms = Open(*args)
        number = self._ready().open(terms)
        tell("session opened", client=self.owner, session=number, policy=terms.policy, up=terms.up, down=terms.down)
        return number

    def exposed_step(self, *args: Any) -> bytes:
        """Answer (session, *Step.to_wire()) with the payload that goes down."""
        part = self._ready()
        if not args or type(args[0]) is not int:
            raise FrameError("step(session, ...) needs the session's number first.")
        step = part.message.from_wire(args[1:])
        work, joins = part.work(args[0], step), part.joins(args[0], step)
        payload, waited = self.turns.run(self.owner, work, joins, self._deserted)
        self._waited.append(round(waited * 1e6))
        self.turns.pool.waited(waited)
        tell("step", logging.DEBUG, client=self.owner, session=args[0], step=step.step_no, up=len(step.payload),
             down=len(payload), waited=round(waited, 6))  # fmt: skip
        return payload

    def exposed_close_session(self, *args: Any) -> None:
        """Forget a session; one that is not there is no error."""
        _types("close_session", args, (int,))
        self._ready().close_session(args[0])

    def exposed_calibrate(self, *args: Any) -> None:
        """Take a calibration file for this connection's codecs."""
        _types("calibrate", args, (bytes,))
        self._ready().calibrate(args[0])

    def exposed_timings(self, *args: Any) -> bytes:
        """What this connection's steps took since the last question, three int32 each: waiting, codec, computing."""
        _types("timings", args, ())
        spent = np.frombuffer(self._ready().timings(), "<i4").reshape(-1, 3).copy()
        waited = np.array(self._waited, "<i4")[len(self._waited) - len(spent) :]
        self._waited.clear()
        spent[:, 0] += waited
        return spent.tobytes()

    def exposed_health(self, *args: Any) -> bytes:
        """Whether the host is ready, and what it serves."""
        _types("health", args, ())
        return self._told("health")

    def exposed_stats(self, *args: Any) -> bytes:
        """How busy the host is, and the sessions of whoever asks."""
        _types("stats", args, ())
        return self._told("stats")

    def exposed_holdings(self, *args: Any) -> bytes:
        """The tensors that the host holds, from a number on."""
        _types("holdings", args, (int,))
        return self._told("holdings", *args)

    def _told(self, name: str, *args: int) -> bytes:
        self._ready()
        return self.watch.told(self.owner, name, *args)

    def _ready(self) -> HeldBody:
        if self._part is None:
            raise FrameError("Say hello first: this connection has not agreed on versions and weights.")
        return self._part


def service_of(body: HeldBody, turns: Turns | None = None) -> type[BodyService]:
    """Return the service class that serves this body, made ready, with fresh sessions for every connection."""
    body.prepare()
    turns = turns or Turns(body.pool)
    return type("BodyService", (BodyService,), {"body": body, "turns": turns, "watch": Watch(body, turns)})


def info_to_wire(info: HostInfo) -> tuple:
    """HostInfo as 16 primitives; the codec names travel as one text, for there may be more than 16."""
    # Only exact types cross, and a version of torch is a subclass of str.
    plain = [str(value) if isinstance(value, str) else value for value in info]
    return (*plain[:10], " ".join(info.codecs), *plain[11:15], tuple(info.holds))


def info_from_wire(values: object) -> HostInfo:
    """Build HostInfo from a peer's answer; raise FrameError when it has another form."""
    kinds = (str,) * 6 + (int, int, int, str, str, int, int, int, int, tuple)
    if type(values) is not tuple:
        raise FrameError("The host's hello is not a tuple.")
    _types("The host's hello", values, kinds)
    shown: list[Any] = [safe_text(value) if type(value) is str else value for value in values]
    info = HostInfo(*shown)
    if len(info.holds) != 2 or any(type(value) is not int for value in info.holds):
        raise FrameError("The host's hello names no range of layers.")
    if not 0 <= info.start < info.stop:
        raise FrameError("The host's hello names no layers.")
    return info._replace(codecs=tuple(map(safe_text, values[10].split())))


def _types(what: str, values: tuple, kinds: tuple[type, ...]) -> None:
    if tuple(map(type, values)) != kinds:  # exact: a bool is no int here
        raise FrameError(f"{what} takes ({', '.join(kind.__name__ for kind in kinds)}).")
