"""Checks for chapter 06, latency: the time of a frame, a fitted cost, first and later tokens, and the break-even."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lsplit_kit.course.calling import number
from lsplit_kit.course.checks import Wrong, call, exercise


def close(a: float, b: float, share: float = 1e-3) -> bool:
    """Whether two numbers are equal but for rounding."""
    return math.isclose(a, b, rel_tol=share, abs_tol=1e-9)


def numbers_of(value: object, count: int, what: str) -> list[float] | str:
    """A learner's `count` numbers from a tuple, list or array, or a sentence about what they are instead."""
    try:
        parts = [number(part) for part in value]  # type: ignore[attr-defined]
    except TypeError:
        return f"{what} were expected, got {type(value).__name__}"
    if len(parts) != count:
        return f"{what} were expected, got {len(parts)} of them"
    found = [part for part in parts if part is not None and math.isfinite(part)]
    return found if len(found) == count else f"{what} were expected, and each a finite number"


@exercise(
    "06.1",
    title="The time of a frame",
    hints=[
        "a byte is 8 bits, and 1 Mbit/s is 1e6 bits a second",
        "a round trip is there and back; a frame goes one way, which is half of it",
        "rtt_ms is in milliseconds and the answer in seconds: divide by 1000",
    ],
    minutes=4,
    difficulty=1,
)
def frame(answer: object) -> str | Wrong | None:
    """frame_seconds(size, mbps, rtt_ms): bits over the rate, and half a round trip."""
    for size, mbps, rtt in ((1000, 8.0, 0.0), (2342, 12.0, 70.0), (250, 0.062, 1600.0), (0, 5.0, 80.0)):
        value = call(answer, size, mbps, rtt)
        seconds = number(value)
        if seconds is None:
            return f"a number of seconds was expected, got {type(value).__name__}"
        bits, delay = 8e-6 * size / mbps, rtt / 2000
        if close(seconds, bits + delay):
            continue
        here = f"for {size:,} bytes at {mbps:g} Mbit/s and a round trip of {rtt:g} ms"
        for said, hint, wrong in (
            ("a byte counts as one bit", 1, bits / 8 + delay),
            ("a mega is 1e6 here, not 2 ** 20", 1, bits / 1.048576 + delay),
            ("the frame goes there and does not come back", 2, bits + 2 * delay),
            ("that is in milliseconds", 3, 1000 * (bits + delay)),
            ("milliseconds are added to seconds", 3, bits + 1000 * delay),
            ("milliseconds are added to seconds", 3, bits + 2000 * delay),
            ("only the bytes take time", 2, bits),
            ("only the length of the line takes time", 1, delay),
        ):
            if close(seconds, wrong):
                return Wrong(f"{said}, {here}", hint)
        return Wrong(f"too {'long' if seconds > bits + delay else 'short'} {here}", 1)
    return None


def _cost(a: float, b: float, c: float) -> Callable[[float, float], float]:
    return lambda n, p: a + b * n + c * n * (p + (n + 1) / 2)


def _rows(a: float, b: float, c: float, noise: float) -> np.ndarray:
    cost, rng = _cost(a, b, c), np.random.default_rng(6)
    steps = [(n, p) for n in (8, 32, 128) for p in (0,)] + [(1, p) for p in (8, 9, 32, 33, 128, 129, 300)]
    return np.array([[n, p, cost(n, p) * (1 + noise * rng.standard_normal())] for n, p in steps])


@exercise(
    "06.2",
    title="Fit the cost of a step",
    hints=[
        "one column a coefficient: np.stack([ones, n, n * (p + (n + 1) / 2)], axis=1), one row a measured step",
        "np.linalg.lstsq(columns, seconds, rcond=None)[0] is the three coefficients with the least squared error",
        "rows[:, 0] is n, rows[:, 1] is p, rows[:, 2] the seconds; mind the order (a, b, c)",
    ],
    minutes=7,
    difficulty=3,
)
def fitted(answer: object) -> str | Wrong | None:
    """fit(rows): (a, b, c) of a + b n + c n (p + (n + 1) / 2) by least squares."""
    for true, noise in (((0.05, 3e-3, 4e-6), 0.0), ((2e-3, 1e-4, 2e-6), 0.0), ((0.05, 3e-3, 4e-6), 0.02)):
        rows = _rows(*true, noise)
        found = numbers_of(call(answer, rows.copy()), 3, "three numbers (a, b, c)")
        if isinstance(found, str):
            return found
        n, p, seconds = rows.T
        columns = np.stack([np.ones_like(n), n, n * (p + (n + 1) / 2)], axis=1)
        best = columns @ np.linalg.lstsq(columns, seconds, rcond=None)[0]
        off = float(np.abs(columns @ np.array(found) - best).max() / best.max())
        if off < (1e-3 if not noise else 0.05):
            continue
        a, b, c = found
        if any(np.allclose(turned, true, rtol=0.02) for turned in ((c, b, a), (b, a, c), (b, c, a), (a, c, b))):
            return Wrong("the right numbers in another order than (a, b, c)", 3)
        plain = np.stack([np.ones_like(n), n, n * p], axis=1)
        if np.allclose(found, np.linalg.lstsq(plain, seconds, rcond=None)[0], rtol=1e-3):
            return Wrong("a step's own positions are read too: n * (p + (n + 1) / 2), not n * p", 1)
        if np.allclose(a, 0) and not np.allclose(true[0], 0):
            return Wrong("a is 0: a step of any length has a fixed cost, so there must be a column of ones", 1)
        return Wrong(f"the fitted cost is up to {off:.0%} away from the least squares line", 2)
    return None


@exercise(
    "06.3",
    title="First token, later tokens",
    hints=[
        "a step is local + up + host + down, one after the other; nothing overlaps",
        "the first step has n = prompt positions and none before: local(prompt, 0), host(prompt, 0)",
        "a later step has one position after p others: local(1, prompt), host(1, prompt)",
        "a vector for each position goes up and one comes down, for the tail's layers: up(frame(n)), down(frame(n))",
    ],
    minutes=5,
    difficulty=2,
)
def two_times(answer: object) -> str | Wrong | None:
    """two_times(prompt, local, host, frame, up, down): seconds to the first token, and for the second one."""
    local, host = _cost(0.02, 4e-4, 0.0), _cost(0.05, 3e-3, 4e-6)

    def size(n: int) -> int:
        return 36 + 2304 * n

    def up(bytes_: float) -> float:
        return bytes_ * 4e-6 + 0.01

    def down(bytes_: float) -> float:
        return bytes_ * 1e-6 + 0.01

    for prompt in (5, 200):
        value = call(answer, prompt, local, host, size, up, down)
        found = numbers_of(value, 2, "two numbers (first, later)")
        if isinstance(found, str):
            return found
        right = [
            local(n, p) + host(n, p) + up(size(n)) + down(size(n)) for n, p in ((prompt, 0), (1, prompt))
        ]  # fmt: skip
        if close(found[0], right[0]) and close(found[1], right[1]):
            continue
        if close(found[0], right[1]) and close(found[1], right[0]):
            return Wrong("the two numbers are exchanged", 2)
        if close(right[0] - found[0], down(size(prompt)) - down(size(1))):
            return Wrong(f"first: one vector comes down, and the tail's layers read all {prompt} positions", 4)
        if close(right[0] - found[0], up(size(prompt)) - up(size(1))):
            return Wrong(f"first: one vector goes up, and the prompt has {prompt} positions", 4)
        if close(found[0], right[0]):
            cold = local(1, 0) + host(1, 0) + up(size(1)) + down(size(1))
            if close(found[1], cold):
                return Wrong("later: the step reads no positions before it, as if nothing were cached", 3)
            return Wrong(f"later: too {'long' if found[1] > right[1] else 'short'} after {prompt} positions", 3)
        return Wrong(f"first: too {'long' if found[0] > right[0] else 'short'} for a prompt of {prompt}", 1)
    return None


@exercise(
    "06.4",
    title="Where the split stops paying",
    hints=[
        "head and tail run on your machine either way: only the body's time changes",
        "a faster host saves body - body / speed; what is left of that after the bytes may be spent waiting",
        "a round trip is paid once a token, whole; in milliseconds: 1000 times the seconds that are left",
        "where the bytes alone eat the gain, no round trip is short enough: max(0, ...)",
    ],
    minutes=6,
    difficulty=3,
)
def even(answer: object) -> str | Wrong | None:
    """break_even_ms(rest, body, speed, size, mbps): the round trip above which local is faster, 0 if it always is."""
    for rest, body, speed, size, mbps in (
        (0.022, 0.050, 10.0, 4666, 100.0), (0.010, 0.050, 2.0, 2500, 5.0), (0.02, 0.05, 10.0, 4666, 0.1),
        (0.02, 0.05, 1.0, 4666, 10.0),
    ):  # fmt: skip
        value = call(answer, rest, body, speed, size, mbps)
        found = number(value)
        if found is None:
            return f"a number of milliseconds was expected, got {type(value).__name__}"
        wire = 8e-6 * size / mbps
        spare = 1000 * (body - body / speed - wire)
        if close(found, max(spare, 0.0)):
            continue
        here = f"for a body of {1000 * body:g} ms, a host {speed:g} times as fast and {size:,} bytes at {mbps:g} Mbit/s"
        for said, hint, wrong in (
            ("a round trip below 0 does not exist", 4, spare),
            ("that is in seconds", 3, spare / 1000),
            ("the rest runs locally in both cases", 1, max(0.0, spare + 1000 * rest)),
            ("the rest runs locally in both cases", 1, max(0.0, spare - 1000 * rest)),
            ("the host's own computing takes time too", 2, max(0.0, 1000 * (body - wire))),
            ("the bytes are not paid", 2, 1000 * (body - body / speed)),
            ("a token pays the whole round trip, there and back", 3, max(0.0, 2 * spare)),
            ("a token pays one round trip, not two", 3, max(0.0, spare / 2)),
        ):
            if close(found, wrong):
                return Wrong(f"{said}, {here}", hint)
        return Wrong(f"too {'long' if found > spare else 'short'} a round trip, {here}", 2)
    return None
