"""Checks for chapter 05, continued: a step that comes twice, and what a full host forgets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from lsplit_kit.course.by_hand import Place
from lsplit_kit.course.calling import NotAttempted, blank, fit, idle
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.errors import CacheMiss, StepRefused


class _Memory:
    """A host of 02.5 in bytes: it keeps what came, and counts how often its body ran."""

    def __init__(self) -> None:
        self.kept, self.runs = b"", 0

    def step(self, start: int, payload: bytes) -> bytes:
        """A digest of all positions up to the last; CacheMiss above what is remembered."""
        if start > len(self.kept):
            raise CacheMiss("I remember less.", have=len(self.kept))
        self.runs += 1
        self.kept = self.kept[:start] + payload
        return self.right(self.kept)

    @staticmethod
    def right(kept: bytes) -> bytes:
        """The answer when these positions are there."""
        return hashlib.sha256(kept).digest()[:8]


def _step(made: Any, number: int, start: int, payload: bytes) -> object:
    step = getattr(made, "step", None)
    if step is None:
        return Wrong("it has no method step(number, start, payload)")
    fit(step, number, start, payload)
    try:
        out = step(number, start, payload)
    except CacheMiss as miss:
        return miss
    except StepRefused as refused:
        return refused
    if blank(out) or (out is None and idle(getattr(step, "__func__", step))):
        raise NotAttempted
    return out


@exercise(
    "05.5",
    title="A step that comes twice",
    hints=[
        "self.last = (number, what came, answer): a step with that number and the same contents gets that answer again",
        "what came is start and payload; keep hashlib.sha256(payload).digest() of it, 32 bytes whatever the payload is",
        "the same number with other contents, and a number below the last one: raise StepRefused, and change nothing",
        "set self.last after self.host.step has returned: a step that raised CacheMiss does not count as made",
    ],
    minutes=6,
    difficulty=3,
)
def steady(answer: object) -> str | Wrong | None:
    """The class Steady(host) with step(number, start, payload): a repeated step is answered and not made again."""
    host = _Memory()
    made: Any = call(answer, host)
    if type(made) is type:
        return "calling your class must build a host"
    # number, start, payload, what it is, what should come of it, the hint
    for number, start, payload, what, right, hint in (
        (1, 0, b"abc", "the first step", b"abc", 1),
        (1, 0, b"abc", "the first step again, its answer was lost", b"abc", 1),
        (2, 3, b"d", "the second step", b"abcd", 1),
        (2, 3, b"e", "step 2 with another payload", StepRefused, 3),
        (2, 2, b"d", "step 2 with another start", StepRefused, 3),
        (2, 3, b"d", "step 2 once more, after two that were refused", b"abcd", 3),
        (1, 0, b"abc", "step 1 after step 2", StepRefused, 3),
        (3, 2, b"xy", "a step below what it has", b"abxy", 1),
        (4, 9, b"z", "a step above what it has", CacheMiss, 4),
        (4, 0, b"abxyzzzzzz", "step 4 with a replay from 0, after the CacheMiss", b"abxyzzzzzz", 4),
        (4, 0, b"abxyzzzzzz", "the replay again", b"abxyzzzzzz", 1),
        (5, 10, b"abxyzzzzzz", "the next step, with the payload of the last", b"abxyzzzzzzabxyzzzzzz", 1),
    ):  # fmt: skip
        runs = host.runs
        out = _step(made, number, start, payload)
        if isinstance(out, Wrong):
            return out
        if isinstance(right, type):
            if isinstance(out, right):
                continue
            got = f"raised {type(out).__name__}" if isinstance(out, Exception) else "was answered"
            return Wrong(f"{what} {got}; {right.__name__} was expected", hint)
        if isinstance(out, Exception):
            return Wrong(f"{what} raised {type(out).__name__}", hint)
        if out != _Memory.right(right):
            if isinstance(out, bytes):
                return Wrong(f"{what}: that is not the body's answer to it", hint)
            return Wrong(f"{what}: the body's answer is bytes, got {type(out).__name__}", 1)
        if host.runs > runs and "again" in what or "once more" in what and host.runs > runs:
            return Wrong(f"{what}: the body ran a second time for it", 1)
    return None


def forgotten(places: list[Place], owner: str, limit: int, quota: int) -> list[str]:
    """The names that have to go after a step of `owner`, as `split/pool.py` chooses them."""
    total, own = sum(p.size for p in places), sum(p.size for p in places if p.owner == owner)
    gone = []
    for place in sorted(places, key=lambda p: -p.idle):
        mine = place.owner == owner
        if place.busy or not place.size or not (total > limit or (mine and own > quota)):
            continue
        total, own = total - place.size, own - place.size * mine
        gone.append(place.name)
    return gone


A, B, C = Place("a1", "ada", 40, 30.0), Place("a2", "ada", 30, 5.0), Place("b1", "bob", 50, 60.0)
D, E = Place("b2", "bob", 20, 1.0), Place("c1", "cyd", 10, 90.0)
# places, owner, limit, quota, what is special, the hint
CROWDS = (
    ([A, B, C], "ada", 200, 200, "all fits", 2),
    ([A, B, C], "ada", 100, 200, "too much in all", 1),
    ([B, C, A, D, E], "ada", 70, 200, "too much in all, by several sessions", 2),
    ([A, B, C], "ada", 200, 60, "ada is over her quota, and bob's session is idle for longer", 3),
    ([A, B, C, D], "bob", 500, 55, "bob is over his quota", 3),
    ([A, B, C._replace(busy=True)], "ada", 100, 200, "the longest idle one is computing", 4),
    ([A, B, C, E], "ada", 100, 60, "too much in all, and over the quota", 3),
    ([A._replace(size=0, idle=99.0), B, C], "ada", 60, 200, "a session that was forgotten before has 0 bytes", 4),
    ([A, B, C._replace(size=300)], "ada", 200, 60, "forgetting bob's is enough for all, and ada has a quota", 3),
    ([C._replace(busy=True)], "bob", 20, 20, "the only session is computing", 4),
)


@exercise(
    "05.6",
    title="What a full host forgets",
    hints=[
        "sorted(places, key=lambda place: place.idle, reverse=True) puts the longest idle first",
        "total = sum of all sizes; stop as soon as total <= limit: take a size off it for each session that goes",
        "own = sum of the owner's sizes; over the quota only sessions of that owner go, so look at both sums for each",
        "leave out those that are busy (their step would fail) and those of 0 bytes (nothing is gained)",
    ],
    minutes=6,
    difficulty=3,
)
def to_forget(answer: object) -> str | Wrong | None:
    """to_forget(places, owner, limit, quota): the names of the sessions that go after a step of `owner`."""
    for places, owner, limit, quota, what, hint in CROWDS:
        made = call(answer, list(places), owner, limit, quota)
        if isinstance(made, str) or not isinstance(made, Iterable):
            return f"a list of names was expected, got {type(made).__name__}"
        names: list[Any] = [getattr(one, "name", one) for one in made]
        right, known = forgotten(places, owner, limit, quota), {p.name: p for p in places}
        here = f"{what} (limit {limit}, quota {quota})"
        if not all(isinstance(name, str) and name in known for name in names):
            return f"{here}: names of sessions were expected, like 'a1'"
        if set(names) == set(right):
            continue
        wrong = set(names) - set(right)
        if any(known[name].busy for name in wrong):
            return Wrong(f"{here}: a session with a step under way is forgotten", 4)
        if any(not known[name].size for name in wrong):
            return Wrong(f"{here}: a session of 0 bytes is forgotten, which makes no room", 4)
        fits = sum(p.size for p in places) <= limit
        own = sum(p.size for p in places if p.owner == owner)
        if fits and own > quota and any(known[name].owner != owner for name in wrong):
            return Wrong(f"{here}: somebody else's session pays for it", 3)
        if wrong and len(names) > len(right):
            return Wrong(f"{here}: more is forgotten than has to be", 2)
        if wrong:
            return Wrong(f"{here}: not the longest idle first", 1)
        return Wrong(f"{here}: too little is forgotten", hint)
    return None
