"""What all sessions of one host share: one computation at a time, and memory, of which the longest idle give first."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import Busy, LimitExceeded, SessionUnknown
from ..wire.events import tell
from ..wire.watch import STAGES
from .telling import Spent

if TYPE_CHECKING:
    from .sessions import Remembered, Sessions

MAX_REMEMBERED = 2 << 30
MAX_BROUGHT = 256 << 20  # bytes of the calibrations that all clients brought
AGAIN = (0.1, 5.0)  # seconds, least and most, after which to ask a host again that had no memory for a step


@dataclass(eq=False)
class Place:
    """One session's part of the memory: whose it is, its bytes, when it was used last, whether a step is under way.

    While one is, size is what the session will have at its end, if that is more than it has; lent are bytes beside it
    for what the step throws away at its end, or sooner: `give` lets go of that.
    """

    home: Sessions
    number: int
    size: int = 0
    used: float = field(default_factory=time.monotonic)
    busy: bool = False
    lent: int = 0
    give: Callable[[], object] = lambda: None


class Pool:
    """Counts the bytes of sessions, and makes them forget when there are too many; they are replayed when used again.

    limit: bytes of all together. quota: bytes of one owner's (None: all). idle: seconds after which an unused session
    is forgotten. piece: a longer prompt is computed in pieces of so many positions while others have sessions (0: in
    one). gather: whether next tokens of several sessions may be computed together.
    """

    def __init__(
        self,
        limit: int = MAX_REMEMBERED,
        quota: int | None = None,
        idle: float = 3600.0,
        piece: int = 0,
        gather: bool = False,
    ) -> None:
        self.limit, self.quota, self.idle = limit, limit if quota is None else min(quota, limit), idle
        self.piece, self.gather = piece, gather
        self.computing = threading.Lock()
        self.brought = 0  # bytes of calibrations
        self.lent = 0  # bytes for what is thrown away, beside those of sessions
        self.freed = 0  # bytes let go of so far
        self.bytes = self.evictions = self.steps = self.misses = self.hits = 0
        self.since = time.monotonic()
        self.spent = {name: Spent() for name in STAGES}
        self._places: OrderedDict[Remembered, Place] = OrderedDict()  # longest idle first
        self._mutex = threading.Lock()

    def enter(self, session: Remembered, home: Sessions, number: int) -> None:
        """Count a new session."""
        with self._mutex:
            self._places[session] = Place(home, number)

    def leave(self, session: Remembered) -> None:
        """Count a session no more."""
        with self._mutex:
            place = self._places.pop(session, None)
            if place is not None:
                self._grow(place, -place.size)

    @contextlib.contextmanager
    def using(self, session: Remembered) -> Iterator[None]:
        """A step of a session: nobody makes it forget meanwhile; raises SessionUnknown where somebody just did."""
        with self._mutex:
            place = self._places.get(session)
            if place is None:
                raise SessionUnknown("This session was forgotten; open a new one and replay.")
            place.busy = True
            self._places.move_to_end(session)
        try:
            yield
        finally:
            with self._mutex:
                place.busy, place.used = False, time.monotonic()
                self._return(place)
                self._weigh(session, place)
                self._take_back(place.home.owner)
                self._make_room(place.home.owner)

    def check(self, size: int) -> None:
        """Raise LimitExceeded when a session that is to take `size` bytes would be over the limit all by itself."""
        if size > self.quota:
            raise LimitExceeded(
                f"This session would take {size:,} bytes, this host remembers at most {self.quota:,} for one client; "
                "use a shorter text or fewer rows."
            )

    def reserve(self, session: Remembered, size: int) -> None:
        """Count the `size` bytes that a step under way ends with from now on, and make room for them.

        Raises LimitExceeded as `check`, and Busy where all that could be forgotten is not enough: the rest belongs to
        other steps under way.
        """
        self.check(size)
        with self._mutex:
            place = self._places.get(session)
            if place is None or size <= place.size:
                return
            under_way = [p for p in self._places.values() if p.busy and p is not place]
            own = sum(p.size for p in under_way if p.home.owner == place.home.owner)
            if size + own > self.quota or size + sum(p.size for p in under_way) > self.limit:
                raise self._full(len(under_way))
            self._grow(place, size - place.size)
            self._take_back(place.home.owner)
            self._make_room(place.home.owner)

    def spare(self, session: Remembered, size: int, give: Callable[[], object]) -> bool:
        """Lend so many bytes until a step under way ends; False, and none, where nobody's limit has them left.

        They are for what is thrown away. Where somebody's session needs them, `give` is called, which lets go of it.
        """
        with self._mutex:
            place = self._places.get(session)
            if place is None:
                return False
            own = self._own(place.home.owner) + self._lent_to(place.home.owner)
            if self.bytes + self.lent + size > self.limit or own + size > self.quota:
                return False
            place.lent, place.give, self.lent = size, give, self.lent + size
            return True

    def answered(self, found: bool, codec: float, computing: float) -> None:
        """Count a step that was answered, its seconds, and whether it found what its session remembers."""
        with self._mutex:
            self.steps, self.hits = self.steps + 1, self.hits + found
            self.spent["codec"].add(codec)
            self.spent["computing"].add(computing)

    def waited(self, seconds: float) -> None:
        """Count how long an answered step had waited for its turn."""
        with self._mutex:
            self.spent["waiting"].add(seconds)

    def missed(self) -> None:
        """Count a step whose session, or what it remembered, was gone."""
        with self._mutex:
            self.misses += 1

    def bring(self, size: int) -> None:
        """Count a calibration, or with a negative size count it no more; raises LimitExceeded."""
        with self._mutex:
            if size > 0 and self.brought + size > MAX_BROUGHT:
                raise LimitExceeded(
                    f"This host keeps at most {MAX_BROUGHT >> 20} MiB of calibrations; use one that it has by itself."
                )
            self.brought += size

    def sweep(self) -> None:
        """Forget what was idle for too long."""
        with self._mutex:
            since = time.monotonic() - self.idle
            for session, place in list(self._places.items()):
                if place.used < since and not place.busy:
                    self._forget(session, place)

    def crowded(self) -> bool:
        """Whether more than one connection has sessions."""
        with self._mutex:
            return len({id(place.home) for place in self._places.values()}) > 1

    def held(self) -> list[tuple[str, int, int, float]]:
        """(owner, its session's number, bytes, seconds since it was used) of every session, longest idle first."""
        with self._mutex:
            now = time.monotonic()
            return [(p.home.owner, p.number, p.size, now - p.used) for p in self._places.values()]

    def _full(self, count: int) -> Busy:
        least, most = AGAIN
        wait = min(most, max((least, *self.spent["computing"].recent)))  # as long as the longest of the last steps
        steps = "1 step" if count == 1 else f"{count} steps"
        return Busy(f"The memory of this host is taken by {steps} under way; try again in {wait:.1f} s.", wait)

    def _grow(self, place: Place, size: int) -> None:
        place.size += size
        self.bytes += size
        self.freed += max(0, -size)

    def _weigh(self, session: Remembered, place: Place) -> None:
        if session in self._places:
            self._grow(place, session.size() - place.size)

    def _own(self, owner: str) -> int:
        return sum(p.size for p in self._places.values() if p.home.owner == owner)

    def _lent_to(self, owner: str) -> int:
        return sum(p.lent for p in self._places.values() if p.home.owner == owner)

    def _take_back(self, owner: str) -> None:
        """Take back what was lent where sessions need it: before anybody forgets anything, or is told to wait."""
        for place in self._places.values():
            mine = place.home.owner == owner and self._own(owner) + self._lent_to(owner) > self.quota
            if place.lent and (mine or self.bytes + self.lent > self.limit):
                self._return(place)

    def _return(self, place: Place) -> None:
        place.give()
        self.lent, self.freed = self.lent - place.lent, self.freed + place.lent
        place.lent, place.give = 0, lambda: None

    def _make_room(self, owner: str) -> None:
        own = self._own(owner)
        for session, place in list(self._places.items()):
            over, mine = self.bytes > self.limit, own > self.quota and place.home.owner == owner
            if place.busy or not place.size or not (over or mine):
                continue
            if place.home.owner == owner:
                own -= place.size
            self._forget(session, place)

    def _forget(self, session: Remembered, place: Place) -> None:
        self.evictions += 1
        tell("session forgotten", client=place.home.owner, session=place.number, bytes=place.size)
        if session.forget():
            self._weigh(session, place)
            return
        self._grow(self._places.pop(session), -place.size)
        place.home.sessions.pop(place.number, None)
        session.end()
