"""A link with a network in it: every frame takes the time that a slower network would need.

By default nobody waits: a virtual clock adds up what the frames would have taken, the same on every machine. Inside
`with link.timed():` the computing that was measured on both sides is added too: CPU time where both compute in this
process (a busy machine does not count as a slow one), else the time that passed. With `realtime=True` it really passes.
Threads may share the link, and so its clock: what a block took is one thread's only where no other is at work.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from ..card import Card
from ..errors import LsplitError, SessionUnknown, UnsupportedOption
from .here import InProcess
from .link import NOTHING, ControlHook, Link, Message
from .message import Exchange, Open
from .network import Network, network
from .patience import DEFAULT_SECONDS
from .timed import Lane, Timed, Trip
from .watch import Watched

AWAKE = 0.002  # seconds before a deadline that are not slept
computing = time.perf_counter if sys.platform == "win32" else time.process_time  # where CPU time is told finely enough
OVERHEAD = 34  # bytes of a step's frame beside its payload, where its size has to be guessed before it is sent


class EmulatedLink(Watched, Card):
    """Wraps any link. preset: a network's name or a `Network`; the other numbers, where given, replace the preset's.

    up_mbps, down_mbps: Mbit/s; rtt_ms, jitter_ms: milliseconds; loss: share of packets; seed: of jitter and loss.
    """

    name = "emulated"

    def __init__(
        self,
        inner: Link,
        preset: str | Network | None = None,
        *,
        up_mbps: float | None = None,
        down_mbps: float | None = None,
        rtt_ms: float | None = None,
        jitter_ms: float | None = None,
        loss: float | None = None,
        seed: int = 0,
        realtime: bool = False,
    ) -> None:
        if not hasattr(inner, "step") or not hasattr(inner, "info"):
            raise UnsupportedOption(f"EmulatedLink wraps a link (lm.link), got {type(inner).__name__}.")
        given = {"up_mbps": up_mbps, "down_mbps": down_mbps, "rtt_ms": rtt_ms, "jitter_ms": jitter_ms, "loss": loss}
        self.inner, self.realtime = inner, realtime
        self.network = network(preset, **{k: v for k, v in given.items() if v is not None})
        self.up, self.down = self.network.lines(seed)
        self._now, self._began = 0.0, time.perf_counter()
        self._host_free = self._left = 0.0
        alone = isinstance(inner, InProcess) and not realtime
        self.tick = computing if alone else time.perf_counter  # what computing is measured with
        self._timed: Timed | None = None
        self.last: Trip | None = None  # of the answer that came last
        self._lanes: dict[int, Lane] = {}  # by session, where something is under way

    info = property(lambda self: self.inner.info)
    epoch = property(lambda self: self.inner.epoch)
    address = property(lambda self: getattr(self.inner, "address", None))
    told = property(lambda self: self.inner.told)  # type: ignore[assignment]
    said = property(lambda self: getattr(self.inner, "said", None))
    host = property(lambda self: getattr(self.inner, "host", 1))  # which of several is in use
    timeout = property(lambda self: getattr(self.inner, "timeout", DEFAULT_SECONDS))

    @property
    def on_control(self) -> ControlHook | None:
        """Who hears of frames that carry no step."""
        return self.inner.on_control

    @on_control.setter
    def on_control(self, hook: ControlHook | None) -> None:
        self.inner.on_control = hook

    @property
    def now(self) -> float:
        """Seconds on this link's clock: virtual ones, or with `realtime` those since it was made."""
        return time.perf_counter() - self._began if self.realtime else self._now

    @property
    def moment(self) -> float:
        """`now`, and on the virtual clock of a timed block the local computing since the link's last call too."""
        timed = self._timed
        if timed is None or self.realtime:
            return self.now
        return self._now + (self.tick() - self._left) / timed.local_speed

    @contextlib.contextmanager
    def timed(self, local_speed: float = 1.0, host_speed: float = 1.0) -> Iterator[Timed]:
        """A block whose computing counts, each side's as if it were so many times faster than it is here."""
        timed = Timed(local_speed, host_speed)
        if self.realtime and (local_speed, host_speed) != (1.0, 1.0):
            raise UnsupportedOption("Speeds can be scaled on the virtual clock only; leave realtime out.")
        before, self._timed, self._left = self.now, timed, self.tick()
        try:
            yield timed
        finally:
            timed.tail = self._compute_here()
            timed.seconds, self._timed = self.now - before, None

    def open(self, terms: Open) -> int:
        """Start a session at the host: a round trip."""
        return self._round_trip(lambda: self.inner.open(terms))

    def abandon(self, session: int) -> None:
        """Let go of a session and of its steps under way; a virtual clock lets the host stop at once."""
        self._compute_here()
        self._forget(session)
        if not self._lanes:  # the host computes for nobody else
            self._host_free = min(self._host_free, self._now)
        self.inner.abandon(session)

    def close_session(self, session: int) -> None:
        """Tell the host to forget a session: a round trip."""
        self._forget(session)
        self._round_trip(lambda: self.inner.close_session(session))

    def calibrate(self, raw: bytes) -> None:
        """Give the host a calibration file: a round trip."""
        self._round_trip(lambda: self.inner.calibrate(raw))

    def timings(self) -> list[tuple[int, int, int]]:
        """What the host's steps took; this question costs no time on the clock."""
        return self.inner.timings()

    def step(self, session: int, step: Message) -> Exchange:
        """Send one step and wait for its answer."""
        self.drop(session)
        self.send(session, step)
        return self.receive(session)

    def drop(self, session: int) -> None:
        """Forget the answers to a session's steps under way, when they have come."""
        while session in self._lanes:
            with contextlib.suppress(LsplitError):
                self._note_dropped(self.receive(session))

    def send(self, session: int, step: Message) -> None:
        """Send one step; the line is busy with it, the caller is not (with `realtime` it is, while the line is)."""
        local, lane = self._compute_here(), self._lanes.get(session, Lane(deque(), deque()))
        if self.realtime:
            guess = len(step.payload) + len(getattr(step, "form", b"")) + OVERHEAD
            arrives, free = self.up.carry(self.now, guess), self.up.free
            self._wait_until(free, session)
            sent = self.now
            self.inner.send(session, step)
            lane.answers.append((local, arrives - free, guess, sent))
            self._lanes[session] = lane
            self._take(session, 0)
        else:
            began, timed = self.tick(), self._timed
            done: Exchange | LsplitError
            try:
                done = self.inner.step(session, step)
                sizes = (done.frame_up or len(step.payload), done.frame_down or len(done.payload))
            except LsplitError as error:
                done, sizes = error, (len(step.payload) + OVERHEAD, OVERHEAD)
            spent = (self.tick() - began) / timed.host_speed if timed else 0.0
            arrives = self.up.carry(self._now, sizes[0])
            begins = max(arrives, self._host_free)
            self._host_free = begins + spent
            back = self.down.carry(self._host_free, sizes[1])
            trip = Trip(local, arrives - self._now, begins - arrives, spent, back - self._host_free, *sizes)
            lane.answers.append((done, back, trip))
            self._lanes[session] = lane
        self._left = self.tick()

    def receive(self, session: int) -> Exchange:
        """The answer to a session's oldest step under way, when it has come."""
        if session not in self._lanes:
            raise SessionUnknown(NOTHING)
        self._compute_here()
        if self.realtime:
            done, trip = self._arrived(session)
        else:
            done, back, trip = self._next(session)
            self._now = max(self._now, back)
        self.last = trip
        if (timed := self._timed) is not None and trip is not None:
            timed.trips.append(trip)
        self._left = self.tick()
        if isinstance(done, LsplitError):
            raise done
        return done

    def ready(self, session: int, seconds: float = 0.0) -> bool:
        """Whether the answer to a session's oldest step is there; on the virtual clock nobody waits, so always."""
        lane = self._lanes.get(session)
        return lane is not None and (not self.realtime or bool(lane.came) or self.inner.ready(session, seconds))

    def _next(self, session: int) -> tuple[Any, ...]:
        """What is known of a session's oldest step, which is under way no more."""
        answers = self._lanes[session].answers
        oldest = answers.popleft()
        if not answers:
            del self._lanes[session]
        return oldest

    def _forget(self, session: int) -> None:
        """Forget a session's steps under way; the bytes of answers that are here are noted."""
        lane = self._lanes.pop(session, Lane(deque(), deque()))
        for done, *_ in lane.came if self.realtime else lane.answers:
            if not isinstance(done, LsplitError):
                self._note_dropped(done)

    def _note_dropped(self, done: Exchange) -> None:
        if self.on_control and done.frame_up:
            self.on_control("dropped", done.frame_up, done.frame_down)

    def _arrived(self, session: int) -> tuple[Exchange | LsplitError, Trip | None]:
        self._take(session, 0)
        came = self._lanes[session].came
        if not came:
            self._take_one(session)
        done, answered = came.popleft()
        local, owed, guess, sent = self._next(session)
        if isinstance(done, LsplitError):
            return done, None
        sizes = (done.frame_up or guess, done.frame_down or len(done.payload))
        owed += (sizes[0] - guess) * self.up.second_per_byte
        back = self.down.carry(answered + owed, sizes[1])
        self._wait_until(back, session)
        up = owed + sizes[0] * self.up.second_per_byte
        return done, Trip(local, up, 0.0, answered - sent, back - answered - owed, *sizes)

    def _expects(self, session: int) -> bool:
        lane = self._lanes.get(session)
        return lane is not None and len(lane.came) < len(lane.answers)

    def _take(self, session: int, seconds: float) -> None:
        """Take in what the link inside has for a session, and note when it came: its way here begins then."""
        while self._expects(session) and self.inner.ready(session, seconds):
            self._take_one(session)
            seconds = 0

    def _take_one(self, session: int) -> None:
        done: Exchange | LsplitError
        try:
            done = self.inner.receive(session)
        except LsplitError as error:
            done = error
        self._lanes[session].came.append((done, self.now))

    def _wait_until(self, deadline: float, session: int = 0) -> None:
        """Wait for a moment of this clock; the last milliseconds awake, for sleeping is not that exact."""
        while (left := deadline - self.now) > 0:
            nap = max(0.0, left - AWAKE)
            if self._expects(session):
                self._take(session, nap)
            else:
                time.sleep(nap)

    def _round_trip(self, ask: Any) -> Any:
        self._compute_here()
        before = self.inner.counters().get("stream", (0, 0))
        try:
            return ask()
        finally:
            after = self.inner.counters().get("stream", (0, 0))
            arrives = self.up.carry(self.now, max(0, after[0] - before[0]))
            back = self.down.carry(arrives, max(0, after[1] - before[1]))
            if self.realtime:
                self._wait_until(back)
            self._now, self._left = max(self._now, back), self.tick()

    def _compute_here(self) -> float:
        """Add the local computing since the last call of this link to a timed block's clock."""
        timed = self._timed
        if timed is None:
            return 0.0
        spent = (self.tick() - self._left) / timed.local_speed
        if not self.realtime:
            self._now += spent
        self._left = self.tick()
        return spent

    def counters(self) -> dict[str, tuple[int, int]]:
        """Bytes of the link inside."""
        return self.inner.counters()

    def close(self) -> None:
        """End the link inside."""
        self.inner.close()

    def _card(self) -> tuple[str, dict[str, object]]:
        title = f"Link: {self.network.name or 'a network'}, emulated"
        inside = self.address or getattr(self.inner, "name", type(self.inner).__name__)
        clock = f"{self.now:.3f} s{'' if self.realtime else ', virtual'}"
        return title, {"network": str(self.network), "inside": inside, "clock": clock}
