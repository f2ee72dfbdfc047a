"""What the local side does when a host is busy, gone, or forgot: it waits and asks again, within limits."""

from __future__ import annotations

import random
import time
import weakref

from ..errors import Busy, HostTimeout, HostUnavailable, LsplitError, SessionUnknown
from .link import Link
from .saying import say

DEFAULT_SECONDS = 60.0  # for a link that has no timeout
LEAST = 0.02  # seconds between two questions, whatever a busy host says
LONG = 5.0  # seconds of one wait, after which it is said again
RETURN_SECONDS = 10.0  # in which a host that is gone may come back, in one call; a link's timeout may be shorter
FIRST, MOST = 0.05, 1.0  # seconds until a host that is gone is looked for again, at first and at most
TRIES = 3  # of a call whose session was lost
OTHERS = 100  # times that a call may lose its session because another thread ended the link's connection


class Patience:
    """Waits for a host, and says so: in each reply once that it is busy, in each call once that it is gone."""

    def __init__(self) -> None:
        self._told: weakref.WeakSet[object] = weakref.WeakSet()  # replies whose user knows that the host is busy
        self._dice = random.Random()  # of its own: a wait must not change what the user draws

    def wait(self, busy: Busy, until: float | None, link: Link, reply: object = None) -> float:
        """Sleep as long as `busy` asks for, and up to a quarter more, so that those who wait do not come back together.

        until: what the last wait of the same call returned (time.monotonic() seconds), None for its first. reply: what
        the call is part of, where this Patience serves more than one. Raises `busy` when the link's timeout is over.
        """
        seconds = getattr(link, "timeout", DEFAULT_SECONDS)
        until, left = _left(until, seconds)
        if left <= 0:
            raise busy
        pause = min(left, max(LEAST, busy.retry_after) * (1 + self._dice.random() / 4))
        reply, waited = self if reply is None else reply, seconds - left
        if reply not in self._told or waited <= LONG < waited + pause:
            self._told.add(reply)
            say(f"The host is busy; asking again for up to {left:.3g} s. It says: {busy}")
        time.sleep(pause)
        return until

    def outlast(self, lost: HostUnavailable, until: float | None, link: Link) -> float:
        """Sleep before a host that is gone is looked for again, each time about as long as it was waited for so far.

        until: as in `wait`. Raises `lost` after RETURN_SECONDS, or the link's timeout where that is shorter.
        """
        seconds = min(RETURN_SECONDS, getattr(link, "timeout", DEFAULT_SECONDS))
        first = until is None
        until, left = _left(until, seconds)
        if left <= 0:
            raise lost
        if first:
            say(f"{lost} Waiting up to {seconds:.3g} s for one to be there again; it is sent all that it has to know.")
        pause = min(MOST, FIRST + seconds - left) * (1 + self._dice.random() / 4)
        time.sleep(min(left, pause))
        return until

    def call(self, link: Link, reply: object = None) -> Retry:
        """What is done when one call over `link` fails."""
        return Retry(self, link, reply)


class Retry:
    """Decides, for one call, whether it is made again: what a host forgot is replayed, who is away is waited for."""

    def __init__(self, patience: Patience, link: Link, reply: object) -> None:
        self.patience, self.link, self.reply = patience, link, reply
        self.left, self.others = TRIES, OTHERS
        self.busy: float | None = None  # until when it is waited for who is busy, and for who is gone
        self.gone: float | None = None

    def after(self, error: LsplitError) -> None:
        """Return, after a wait where there is one, when the call is to be made again; else raise `error`."""
        if isinstance(error, Busy):
            self.busy = self.patience.wait(error, self.busy, self.link, self.reply)
        elif isinstance(error, HostUnavailable) and error.absent:
            self.gone = self.patience.outlast(error, self.gone, self.link)
        elif isinstance(error, SessionUnknown) and error.by_another and self.others:
            self.others -= 1  # the host did nothing wrong, and neither did this call
        else:
            self.left -= 1
            if not self.left or (isinstance(error, HostTimeout) and not error.elsewhere):
                raise error


def _left(until: float | None, seconds: float) -> tuple[float, float]:
    """(until when, how many seconds that is from now); a first wait has all of them."""
    now = time.monotonic()
    until = now + seconds if until is None else until
    return until, until - now
