"""What every body's host does alike: sessions by number, steps that may come twice, one computation at a time."""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Generic, Self, TypeVar

import numpy as np
from torch import Tensor

from ..errors import (
    CacheMiss,
    CalibrationMissing,
    CodecError,
    FrameError,
    LimitExceeded,
    SessionUnknown,
    StepRefused,
)
from ..quantization import Calibration, bases, codec
from ..wire.link import Message
from ..wire.message import MAX_TIMINGS, PROTOCOL, HostInfo, Open, PictureStep, Step, WholeStep
from .pool import Pool
from .telling import health_of, holdings_from, stats_of
from .together import Joint

MAX_FRAME, MAX_ROWS, MAX_SESSIONS = 16 << 20, 256, 64
MAX_CALIBRATIONS = 4  # that one connection may bring

S = TypeVar("S", bound="Remembered")
M = TypeVar("M", Step, PictureStep, WholeStep)
# A step under way. It stops where others may go first (None), or to be computed together with others (Joint); whoever
# runs it sends back what a Joint asked for, and is returned the payload that goes down.
Work = Generator[Joint | None, Tensor | None, bytes]


class Remembered:
    """One client's session: its terms, and the last step with its answer, which a lost reply asks for again."""

    def __init__(self, terms: Open, given: Mapping[str, Calibration]) -> None:
        self.policy, self.up, self.down = terms.policy, codec(terms.up, given), codec(terms.down, given)
        self.last: tuple[int, bytes, bytes | None] = (-1, b"", b"")  # number, digest, answer (None: forgotten)

    def size(self) -> int:
        """Bytes that this session keeps in memory."""
        raise NotImplementedError

    def forget(self) -> bool:
        """Let go of all that a client can send again; False when the session is of no use without it."""
        return False

    def end(self) -> None:
        """Nobody will ask this session again."""


class Sessions(Generic[S, M]):
    """Answers open, step and close_session; a subclass says what a session remembers and how a step is answered."""

    policies: tuple[str, ...]
    message: type[M]
    most = MAX_SESSIONS  # of one connection
    predicts = False  # whether what goes down may depend on what went down before

    def __init__(self, info: HostInfo, pool: Pool | None = None) -> None:
        self.info, self.pool = info, pool or Pool()
        self.owner = ""  # who pays for its sessions: one client
        self.sessions: OrderedDict[int, S] = OrderedDict()
        self.calibrations: dict[str, Calibration] = {}
        self._next = 0
        self._coding = 0.0  # seconds that the step under way spent with codecs
        self._spent: deque[tuple[int, int, int]] = deque(maxlen=MAX_TIMINGS)

    def fork(self) -> Self:
        """The same body with its own sessions, for one more connection; compute stays one at a time."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Find out whatever needs a computation, before the first client comes; here nothing does."""

    def open(self, terms: Open) -> int:
        """Start a session under these terms; its number counts within this body (one connection)."""
        if len(terms) != 3 or any(type(x) is not str for x in terms):
            raise FrameError("open takes three strings: policy, codec up, codec down.")
        if terms.policy not in self.policies:
            raise FrameError(f"Unknown policy; this host's body knows {', '.join(self.policies)}.")
        for spec in (terms.up, terms.down):
            try:
                found = codec(spec, self.calibrations)
            except CalibrationMissing:
                raise CalibrationMissing("The host does not have the calibration that a codec names.") from None
            except CodecError:
                known = ", ".join(bases())
                raise CodecError(f"The host does not know the codec {spec[:40]!r}; it knows {known}.") from None
            if found.stateful and (spec == terms.up or not self.predicts):
                raise CodecError("Prediction (+delta) is for what comes down in the steps of a picture.")
        session = self._begin(terms)
        self._next += 1
        self.sessions[self._next] = session
        self.pool.enter(session, self, self._next)
        while len(self.sessions) > self.most:  # its owner hears "unknown session" later and replays
            self.close_session(next(iter(self.sessions)))
        return self._next

    def calibrate(self, raw: bytes) -> None:
        """Take a calibration; its sessions to come may name it. Raises CodecError, LimitExceeded."""
        if len(self.calibrations) >= MAX_CALIBRATIONS:
            raise LimitExceeded(f"One connection brings at most {MAX_CALIBRATIONS} calibrations.")
        found = Calibration(raw)
        if found.id not in self.calibrations:
            self.pool.bring(found.nbytes)
            self.calibrations[found.id] = found

    def close_session(self, number: int) -> None:
        """Forget a session; an unknown number is no error."""
        session = self.sessions.pop(number, None)
        if session is not None:
            self.pool.leave(session)
            session.end()

    def close(self) -> None:
        """Forget every session, and what was brought for them."""
        for number in list(self.sessions):
            self.close_session(number)
        self.pool.bring(-sum(brought.nbytes for brought in self.calibrations.values()))
        self.calibrations.clear()

    def step(self, number: int, step: Message) -> bytes:
        """Answer one step with the down payload; raises typed errors, and then the session is unchanged."""
        work = self.work(number, step)
        while True:
            try:
                next(work)
            except StopIteration as done:
                return done.value

    def work(self, number: int, step: Message) -> Work:
        """Answer one step bit by bit, where others may come in between."""
        try:
            return (yield from self._worked(number, step))
        except (CacheMiss, SessionUnknown):
            self.pool.missed()
            raise

    def _worked(self, number: int, step: Message) -> Work:
        session = self.sessions.get(number)
        if session is None:
            raise SessionUnknown("This connection has no such session; open a new one and replay.")
        if not isinstance(step, self.message):
            raise FrameError(f"This body takes a {self.message.__name__}, got a {type(step).__name__}.")
        self.sessions.move_to_end(number)
        self._coding = took = 0.0
        answer: Tensor | None = None
        with self.pool.using(session):
            found = self._builds(session, step)  # type: ignore[arg-type]
            bits = self._once(session, step)  # type: ignore[arg-type]
            while True:
                began = time.perf_counter()
                try:
                    asked = bits.send(answer)
                except StopIteration as done:
                    took += time.perf_counter() - began
                    self._spent.append((0, round(self._coding * 1e6), round((took - self._coding) * 1e6)))
                    self.pool.answered(found, self._coding, took - self._coding)
                    return done.value
                took += time.perf_counter() - began
                try:
                    answer = yield asked
                except BaseException:
                    bits.close()  # now, and not when nobody knows the error any more: half-written state is let go
                    raise
                took += asked.seconds if asked is not None else 0.0

    def joins(self, number: int, step: Message) -> object:
        """What this step may be computed together with, by name; None: nothing."""
        return None

    def timings(self) -> bytes:
        """What the steps since the last question took, three int32 each, microseconds: waiting, codec, computing."""
        spent = np.array(self._spent, "<i4").tobytes()
        self._spent.clear()
        return spent

    def told(self, name: str, *args: int) -> bytes:
        """The answer to health, stats (sessions: its owner's) or holdings(first), as it crosses; raises FrameError."""
        if name == "health" and not args:
            return health_of(self.info, self.message, self.pool.since).raw()
        if name == "stats" and not args:
            return stats_of(self.pool, self.owner).raw()
        if name == "holdings" and len(args) == 1:
            return holdings_from(self.tensors(), *args)
        raise FrameError("A host tells its health, its stats, and its holdings from a number on.")

    def tensors(self) -> Iterable[tuple[str, Tensor | None]]:
        """Everything that this body holds by name, None for a part without tensors."""
        return ()

    @contextlib.contextmanager
    def coding(self) -> Iterator[None]:
        """A block whose time is the codec's."""
        began = time.perf_counter()
        yield
        self._coding += time.perf_counter() - began

    def _once(self, session: S, step: M) -> Work:
        digest = step.digest()
        if step.step_no == session.last[0]:
            if digest != session.last[1]:
                raise StepRefused(f"Step {step.step_no} came twice with different contents.")
            if session.last[2] is None:
                raise CacheMiss("This host forgot the session meanwhile; replay it.", have=0)
            return session.last[2]
        if step.step_no < session.last[0]:
            raise StepRefused(f"Step {step.step_no} is older than the last one, {session.last[0]}.")
        payload = yield from self._work(session, step)
        session.last = (step.step_no, digest, payload)
        return payload

    def _builds(self, session: S, step: M) -> bool:
        """Whether this step needs what the session remembers of earlier ones."""
        return session.last[0] >= 0

    def _begin(self, terms: Open) -> S:
        raise NotImplementedError

    def _work(self, session: S, step: M) -> Work:
        """All at once; a subclass may let others come in between."""
        yield from ()
        return self._answer(session, step)

    def _answer(self, session: S, step: M) -> bytes:
        raise NotImplementedError


def describe(
    model: str, fingerprint: str, holds: tuple[int, int], width: int, dtype: str, longest: int, rows: int = MAX_ROWS
) -> HostInfo:
    """What a body of this process says of itself."""
    import torch
    import transformers

    from .. import __version__

    return HostInfo(
        PROTOCOL, __version__, str(torch.__version__), transformers.__version__, model, fingerprint, *holds, width,
        dtype, tuple(bases()), MAX_FRAME, longest, rows, os.getpid(), holds,
    )  # fmt: skip
