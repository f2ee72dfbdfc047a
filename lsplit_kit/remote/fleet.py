"""Several hosts as one link: when one is lost, the session goes on at the next, which is sent everything again.

It stays where it is until that host is lost, and so comes back to the first one only when a later one is lost: each
move shows the prompt to one more host. What was forgotten is replayed as after any lost session, because `epoch`
changes when the link moves. A host that breaks off is asked once more, and left when it breaks off again; one that does
not answer in time is left at once. Hosts that hold something else are never gone on at.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..card import Card
from ..errors import (
    Busy,
    FingerprintMismatch,
    HostTimeout,
    HostUnavailable,
    LsplitError,
    SessionUnknown,
    UnsupportedOption,
)
from ..wire.link import ControlHook, Message, about
from ..wire.message import Exchange, HostInfo, Open
from ..wire.saying import say
from ..wire.watch import Watched
from .client import RpycLink
from .verdicts import reason, saying, serves, soonest

T = TypeVar("T")
BREAKS = 2  # in a row, after which a host is left though it can still be reached
_SERVED = ("fingerprint", "start", "stop", "dtype")


class Fleet(Watched, Card):
    """A link to the first of these hosts that answers, and to the next one when it is lost.

    Every host is greeted at once (only `hello` crosses) and all but one let go again. timeout: seconds for a whole call
    at one host, each host being waited for once in a call. Raises what RpycLink does, naming the address, for a host
    that holds something else; when none answers HostUnavailable, or Busy where one of them is only full.
    """

    name = "fleet"

    def __init__(
        self,
        addresses: Sequence[str],
        timeout: float = 60.0,
        *,
        fingerprint: str = "",
        start: int | None = None,
        stop: int | None = None,
        dtype: str = "",
        token: bytes | None = None,
        certificate: str | os.PathLike[str] | None = None,
    ) -> None:
        if len(set(addresses)) != len(addresses) or not addresses:
            raise UnsupportedOption(f"body= takes one or several different addresses, got {list(addresses)!r}.")
        asked: dict[str, Any] = {"fingerprint": fingerprint, "start": start, "stop": stop, "dtype": dtype}
        asked |= {"token": token, "certificate": certificate}  # each address takes the one that it has a use for
        self.links = [RpycLink(address, timeout, connect=False, **asked) for address in addresses]
        self.timeout = self.links[0].timeout
        self._why: dict[int, str] = {}  # what was wrong with a host, the last time it was asked
        self._late: set[int] = set()  # hosts that did not answer in time since a step was answered
        self._broke: dict[int, int] = {}  # how often a host broke off since then
        self._at = self._moves = self._known = 0
        self._first: tuple[str, HostInfo] | None = None  # who answered first, and what it holds
        self._lock, self._closed = threading.RLock(), False
        self._numbers = itertools.count(1)
        self._sessions: dict[int, tuple[RpycLink, int]] = {}  # our number, never used twice -> where, its number there
        self._hook: ControlHook | None = None
        try:
            self._greet_all()
        except BaseException:
            self.close()
            raise

    info = property(lambda self: self.links[self._at].info)
    address = property(lambda self: self.links[self._at].address)  # of the host in use
    host = property(lambda self: self._at + 1)  # its number
    said = property(lambda self: f"{self.address}, host {self.host} of {len(self.links)}")  # as a card names it
    epoch = property(lambda self: self._moves + sum(link.epoch for link in self.links))

    @property
    def on_control(self) -> ControlHook | None:
        """Who hears of frames that carry no step, and of moves: kind "moved", no bytes."""
        return self._hook

    @on_control.setter
    def on_control(self, hook: ControlHook | None) -> None:
        self._hook = hook
        for link in self.links:
            link.on_control = hook

    def open(self, terms: Open) -> int:
        """Start a session at the host in use, or where that is lost at the next one."""
        with self._lock:
            link, number = self._somewhere(lambda link: link.open(terms))
            if self._known != self.epoch:  # the numbers given before have died
                self._sessions.clear()
                self._known = self.epoch
            ours = next(self._numbers)
            self._sessions[ours] = (link, number)
            return ours

    def step(self, session: int, step: Message) -> Exchange:
        """Send one step and wait for its answer."""
        link, number = self._theirs(session)
        return self._heard(link, lambda: link.step(number, step))

    def send(self, session: int, step: Message) -> None:
        """Send one step and go on."""
        link, number = self._theirs(session)
        self._asking(link, lambda: link.send(number, step))

    def receive(self, session: int) -> Exchange:
        """The answer to a session's oldest step under way."""
        link, number = self._theirs(session)
        return self._heard(link, lambda: link.receive(number))

    def drop(self, session: int) -> None:
        """Read and forget the answers to a session's steps under way."""
        link, number = self._theirs(session)
        self._asking(link, lambda: link.drop(number))

    def ready(self, session: int, seconds: float = 0.0) -> bool:
        """Whether the answer to a session's oldest step, or the end of its connection, comes within `seconds`."""
        link, number = self._sessions.get(session, (None, 0))
        return link is not None and link.ready(number, seconds)

    def abandon(self, session: int) -> None:
        """Let go of a session and of its steps under way."""
        link, number = self._sessions.pop(session, (None, 0))
        if link is not None:
            self._asking(link, lambda: link.abandon(number))

    def close_session(self, session: int) -> None:
        """Tell its host to forget a session; nothing is sent when its connection is gone."""
        link, number = self._sessions.pop(session, (None, 0))
        if link is not None:
            self._asking(link, lambda: link.close_session(number))

    def calibrate(self, raw: bytes) -> None:
        """Give the host in use a calibration file that it does not have."""
        link = self.links[self._at]
        self._asking(link, lambda: link.calibrate(raw))

    def timings(self) -> list[tuple[int, int, int]]:
        """(waiting, codec, computing) at the host in use in microseconds, for each step since the last question."""
        return self.links[self._at].timings()

    def told(self, name: str, *args: int) -> bytes:
        """What the host in use says of itself."""
        return self.links[self._at].told(name, *args)

    def counters(self) -> dict[str, tuple[int, int]]:
        """Bytes (up, down) over all hosts: `stream`, and `tcp` where the kernel tells for all of them."""
        found = [link.counters() for link in self.links]
        return {
            name: (sum(counted[name][0] for counted in found), sum(counted[name][1] for counted in found))
            for name in found[0]
            if all(name in counted for counted in found)
        }

    def close(self) -> None:
        """End the link to every host. A second call does nothing."""
        self._closed = True
        for link in self.links:
            link.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _card(self) -> tuple[str, dict[str, object]]:
        state = {at: "in use" if at == self._at else self._why.get(at, "not in use") for at in range(len(self.links))}
        hosts = {f"host {at + 1}": f"{link.address}: {state[at]}" for at, link in enumerate(self.links)}
        return f"Link: {len(self.links)} hosts", {
            **hosts,
            **({"state": "closed"} if self._closed else about(self.info)),
        }

    def _greet_all(self) -> None:
        full: list[LsplitError] = []
        for at, link in enumerate(self.links):
            try:
                self._greet(link)
            except (HostUnavailable, Busy) as error:
                self._why[at] = reason(link, error)
                full += [error] if isinstance(error, Busy) else []
            except LsplitError as error:
                raise saying(error, f"{reason(link, error)}.") from None
        answer = [at for at in range(len(self.links)) if at not in self._why]
        if not answer:
            raise saying(soonest(full), self._all_failed()) if full else HostUnavailable(self._all_failed())
        self._at = answer[0]
        for at in answer[1:]:
            self.links[at].rest()
        if self._why:
            why = "; ".join(self._why.values())
            say(f"Only {len(answer)} of {len(self.links)} hosts answer: {why}.")

    def _greet(self, link: RpycLink) -> None:
        """Connect; every host of a fleet has to hold what the others hold."""
        link.greet()
        if self._first is None:
            self._first = (link.address, link.info)
        where, first = self._first
        if any(getattr(link.info, name) != getattr(first, name) for name in _SERVED):
            link.rest()
            raise FingerprintMismatch(
                f"it serves {serves(link.info)}, {where} {serves(first)}; start both with the same model and cuts."
            )

    def _somewhere(self, ask: Callable[[RpycLink], T]) -> tuple[RpycLink, T]:
        """Ask the host in use, and where that fails the others in their order; each is asked once."""
        if self._closed:
            raise HostUnavailable("The link to these hosts is closed; make a new one.")
        count = len(self.links)
        leave = self._at in self._late or self._broke.get(self._at, 0) >= BREAKS
        turn = [(self._at + leave + k) % count for k in range(count)]
        failed: list[LsplitError] = []
        for at in [n for n in turn if n not in self._late]:
            link, greeted = self.links[at], False
            try:
                self._greet(link)
                greeted = True
                self._move(at)
                return link, ask(link)
            except LsplitError as error:
                if greeted and not isinstance(error, HostUnavailable):  # its answer to what was asked
                    raise
                if isinstance(error, Busy) and at == self._at and not leave:  # not lost: nobody else is shown more
                    raise
                failed.append(error)
                self._why[at] = reason(link, error)
        refused = [error for error in failed if not isinstance(error, HostUnavailable)]
        late = self._late or any(isinstance(error, HostTimeout) for error in failed)
        self._late, self._broke = set(), {}
        if refused:
            raise saying(soonest(refused), self._all_failed()) from None
        raise HostTimeout(self._all_failed()) if late else HostUnavailable.nobody(self._all_failed())

    def _move(self, at: int) -> None:
        before, self._at = self._at, at
        self._why.pop(at, None)
        if at == before:
            return
        self._moves += 1
        if self._hook is not None:
            self._hook("moved", 0, 0)
        why = self._why.setdefault(before, f"{self.links[before].address} was left")
        say(f"{why}; going on at {self.address}, which is sent everything again.")

    def _theirs(self, session: int) -> tuple[RpycLink, int]:
        found = self._sessions.get(session)
        if found is None:
            error = SessionUnknown(f"Session {session} ended with its host; it has to be opened and replayed.")
            error.by_another = True  # forgotten when another thread opened one at the next connection
            raise error
        return found

    def _heard(self, link: RpycLink, ask: Callable[[], Exchange]) -> Exchange:
        """The answer to a step, after which every host may be asked again."""
        done = self._asking(link, ask)
        self._late, self._broke = set(), {}
        return done

    def _asking(self, link: RpycLink, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except HostUnavailable as lost:
            raise self._lost(link, lost) from None

    def _lost(self, link: RpycLink, error: HostUnavailable) -> HostUnavailable:
        """Note that a step was lost with its host; the error to raise."""
        at = self.links.index(link)
        self._why[at] = reason(link, error)
        if not isinstance(error, HostTimeout):
            self._broke[at] = self._broke.get(at, 0) + 1
            return error
        self._late.add(at)
        if len(self._late) < len(self.links):
            error.elsewhere = True
            return error
        self._late, self._broke = set(), {}
        return HostTimeout(self._all_failed())

    def _all_failed(self) -> str:
        why = [self._why.get(at, f"{link.address} was not asked") for at, link in enumerate(self.links)]
        return f"None of the {len(why)} hosts goes on: {'; '.join(why)}."
