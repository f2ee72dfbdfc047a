"""Whose step is computed next: a bounded queue, one client after the other, next tokens of several clients together."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ..errors import Busy, CacheMiss
from ..wire.events import tell
from .stream import Gone

if TYPE_CHECKING:
    from ..split.pool import Pool
    from ..split.sessions import Work
    from ..split.together import Joint

GONE = "the peer went away before its step was computed"
RECENT = 10.0  # seconds for which an owner's habits are remembered
FEW = 3  # rows worth waiting for: two go faster in turn, one at the host while the other is at home
MOST = 32  # rows of one computation
LOOK = 0.25  # seconds between two looks whether the peer of a step that waits is still there


@dataclass(eq=False)
class Job:
    """One step that waits for its turn, of one owner.

    joins: what it may be computed together with; deserted: says whether nobody waits for the answer any more.
    """

    owner: str
    work: Work
    joins: object
    deserted: Callable[[], bool]
    since: float = field(default_factory=time.perf_counter)
    go: threading.Event = field(default_factory=threading.Event)
    waited: float = 0.0
    asked: Joint | None = None
    done: bool = False
    payload: bytes = b""
    error: BaseException | None = None


@dataclass
class Habit:
    """When an owner's last step that could be joined came and was answered, and how long after an answer it came."""

    came: float = 0.0
    answered: float = 0.0
    pause: float = float("inf")

    def comes(self, since: float, until: float) -> bool:
        """Whether its next step is to be expected between these two times, if it is as quick as the last time."""
        return self.answered > self.came and since <= self.answered + self.pause <= until


class Turns:
    """Lets one thread at a time compute, in turn for each owner; `run` is called by many threads at once.

    waiting, each: steps that wait at most, of all and of one owner; more are answered with Busy. window: seconds at
    most that a step waits for others that may be computed together with it; None: nothing is computed together.
    """

    def __init__(self, pool: Pool, waiting: int = 64, each: int = 8, window: float | None = None) -> None:
        self.pool, self.waiting, self.each, self.window = pool, waiting, each, window
        self.took: deque[float] = deque(maxlen=256)  # seconds of computing, a turn each
        self.rows: deque[int] = deque(maxlen=256)  # steps of that turn
        self.refused = 0
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()  # the owner at the front is next
        self._habits: dict[tuple[str, object], Habit] = {}  # by owner and what its steps may be joined with
        self._running = False
        self._changed = threading.Condition()

    def queued(self) -> dict[str, int]:
        """Steps that wait, by owner."""
        with self._changed:
            return {owner: len(jobs) for owner, jobs in self._queues.items()}

    def run(
        self, owner: str, work: Work, joins: object = None, deserted: Callable[[], bool] = lambda: False
    ) -> tuple[bytes, float]:
        """(payload, seconds waited) of one step; raises Busy where too many wait, and what the step raises.

        A step that is `deserted` is dropped while it waits, before it is computed or between two of its parts, and
        raises Gone.
        """
        job = Job(owner, work, joins, deserted)
        if not self._enter(job):
            self._wait(job)
        while not job.done:
            job.go.clear()
            self._turn(job)
            if not job.done:
                self._wait(job)
        error, job.error = job.error, None
        self.refused += isinstance(error, Busy)  # by the memory, which steps under way have taken
        try:
            if error is not None:
                raise error
        finally:
            del error  # a traceback that leads to itself would keep what the request brought in memory
        return job.payload, job.waited

    def _wait(self, job: Job) -> None:
        """Until it is this job's turn, or it is done: by others, or because nobody waits for it."""
        while not job.go.wait(LOOK):
            if job.deserted() and self._leave(job):
                self._go_on(job, Gone(GONE))
                return

    def _leave(self, job: Job) -> bool:
        """Take a job out of the queue; False when somebody else has just done so."""
        with self._changed:
            queue = self._queues.get(job.owner, deque())
            if job not in queue:
                return False
            queue.remove(job)
            if not queue:
                del self._queues[job.owner]
            return True

    def _enter(self, job: Job) -> bool:
        """Join the queue; True when nobody computes, and it is this job's turn at once."""
        with self._changed:
            own, all_ = len(self._queues.get(job.owner, ())), sum(map(len, self._queues.values()))
            if all_ >= self.waiting or own >= self.each:
                raise self._busy(all_, own)
            if job.joins is not None:
                habit = self._habits.setdefault((job.owner, job.joins), Habit())
                habit.came, habit.pause = job.since, job.since - habit.answered
            if self._running:
                self._queues.setdefault(job.owner, deque()).append(job)
                self._changed.notify_all()
                return False
            self._running = True
            return True

    def _busy(self, all_: int, own: int) -> Busy:
        self.refused += 1
        who = f"{all_} steps wait" if all_ >= self.waiting else f"{own} steps of yours wait"
        wait = self._forecast(all_ + 1)
        return Busy(f"This host is busy: {who}, and it lets no more; try again in {wait:.1f} s.", wait, all_ + 1)

    def _forecast(self, position: int) -> float:
        """Seconds until a step at this place of the queue may be computed."""
        took = sum(self.took) / max(1, sum(self.rows))
        return min(60.0, max(0.05, took * position))

    def _turn(self, job: Job) -> None:
        """Compute one job's next part, alone or with others, then let the next one go."""
        group: list[Job] = []
        began = time.perf_counter()
        try:
            group = [job, *self._mates(job)]
            began = time.perf_counter()
            self._advance(group)
        finally:
            self.took.append(time.perf_counter() - began)
            self.rows.append(max(1, len(group)))
            self._pass_on(job, group[1:])

    def _mates(self, job: Job) -> list[Job]:
        """What is computed with this job: all that waits, and what should come within the window, as its owner did."""
        if self.window is None or job.joins is None:
            return []
        began = time.perf_counter()
        end = began + self.window
        with self._changed:
            while True:
                waiting = self._alike(job.joins)[: MOST - 1]
                now = time.perf_counter()
                self._habits = {key: h for key, h in self._habits.items() if h.came > now - RECENT}
                here = {job.owner, *self._queues}  # of these, nobody else's step is waited for
                due = sum(
                    h.comes(began - self.window, end)
                    for (owner, joins), h in self._habits.items()
                    if joins is job.joins and owner not in here
                )
                others = any(each.joins is not job.joins for q in self._queues.values() for each in q)
                enough = not due or others or 1 + len(waiting) + due < FEW or 1 + len(waiting) >= MOST
                if now >= end or enough:
                    break
                self._changed.wait(end - now)
            for mate in waiting:
                self._take(mate)
            return waiting

    def _alike(self, joins: object) -> list[Job]:
        """All that waits and can be computed together: the first of each owner, then everybody's second, and so on."""
        rounds = zip_longest(*([each for each in q if each.joins is joins] for q in self._queues.values()))
        return [each for one in rounds for each in one if each is not None]

    def _take(self, job: Job) -> Job:
        """Let a job out of the queue; its owner goes to the end of the line."""
        queue = self._queues[job.owner]
        queue.remove(job)
        self._queues.move_to_end(job.owner)
        if not queue:
            del self._queues[job.owner]
        return job

    def _advance(self, group: list[Job]) -> None:
        now = time.perf_counter()
        for job in group:
            job.waited += now - job.since
            self._go_on(job, Gone(GONE) if job.deserted() else None)
        joint = [job for job in group if job.asked is not None]
        if joint:
            from ..split.together import forward

            try:
                with self.pool.computing:
                    outs: list[Any] = list(forward([job.asked for job in joint if job.asked]))
            except Exception as err:  # whose fault it was is not known: each is replayed, alone
                tell("steps not computed together", logging.ERROR, err, steps=len(joint))
                outs = [CacheMiss("This host lost the session in a computation; replay it.", have=0) for _ in joint]
            for job, out in zip(joint, outs, strict=True):
                self._go_on(job, out)
        for job in group:
            job.since = time.perf_counter()

    def _go_on(self, job: Job, answer: Any) -> None:
        """One job's next part; afterwards it is done, has asked for a joint computation, or lets others go first."""
        try:
            job.asked = job.work.throw(answer) if isinstance(answer, BaseException) else job.work.send(answer)
        except StopIteration as done:
            job.payload, job.done, job.asked = done.value, True, None
        except BaseException as err:
            job.error, job.done, job.asked = err, True, None

    def _pass_on(self, job: Job, mates: list[Job]) -> None:
        now = time.perf_counter()
        with self._changed:
            for each in (job, *mates):
                if each.done and (each.owner, each.joins) in self._habits:
                    self._habits[each.owner, each.joins].answered = now
            if not job.done:
                self._queues.setdefault(job.owner, deque()).appendleft(job)
                self._queues.move_to_end(job.owner)
            for mate in mates:
                if not mate.done:
                    self._queues.setdefault(mate.owner, deque()).appendleft(mate)
            following = self._take(next(iter(self._queues.values()))[0]) if self._queues else None
            self._running = following is not None
        for mate in mates:
            if mate.done:
                mate.go.set()
        if following is not None:
            following.go.set()
