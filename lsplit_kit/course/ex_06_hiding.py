"""Checks for chapter 06, continued: hiding round trips by drafting, and by sending a prompt in pieces."""

from __future__ import annotations

from collections.abc import Callable

from lsplit_kit.course.calling import number, whole
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.ex_06 import close

MOST = 16  # drafted tokens


def expected(a: float, k: int) -> float:
    """Tokens a round trip: the accepted ones of k drafts and one more (arXiv 2211.17192, equation 1)."""
    return float(sum(a**i for i in range(k + 1)))


def price(a: float, draft: float, step: Callable[[int], float], rtt_ms: float) -> Callable[[int], float]:
    """Seconds for a token, as a function of the drafted tokens k."""
    return lambda k: (k * draft + step(k + 1) + rtt_ms / 1000) / expected(a, k)


@exercise(
    "06.5",
    title="What a round trip brings",
    hints=[
        "the host always adds one token of its own: with k = 0 the answer is 1",
        "draft i counts only if it and all before it are accepted: a ** i; the sum of 1 + a + ... + a ** k",
        "the closed form divides by 1 - a; for a = 1 all k drafts are accepted, and the answer is k + 1",
    ],
    minutes=4,
    difficulty=2,
)
def tokens(answer: object) -> str | Wrong | None:
    """tokens_a_trip(a, k): the expected tokens of one round trip with k drafts, each accepted with chance a."""
    for a, k in ((0.8, 0), (0.8, 1), (0.8, 4), (0.5, 7), (0.0, 3)):
        if (fault := _tokens(call(answer, a, k), a, k)) is not None:
            return fault
    try:
        return _tokens(call(answer, 1.0, 5), 1.0, 5)
    except ZeroDivisionError:
        return Wrong("with a = 1 your code divides by 0", 3)


def _tokens(value: object, a: float, k: int) -> str | Wrong | None:
    found, right = number(value), expected(a, k)
    if found is None:
        return f"a number of tokens was expected, got {type(value).__name__}"
    if close(found, right):
        return None
    here = f"for a = {a:g} and k = {k}"
    for said, hint, wrong in (
        ("the token that the host adds itself is missing", 1, right - 1),
        ("a draft after a rejected one is lost, however good", 2, a * k),
        ("a draft after a rejected one is lost, however good", 2, 1 + a * k),
        ("one term too few: k drafts and one more", 2, expected(a, k - 1)),
        ("one term too many", 2, expected(a, k + 1)),
    ):
        if close(found, wrong):
            return Wrong(f"{said}, {here}", hint)
    return Wrong(f"too {'many' if found > right else 'few'} tokens {here}", 2)


@exercise(
    "06.6",
    title="How many tokens to draft",
    hints=[
        "a round trip takes k * draft + step(k + 1) + rtt_ms / 1000 seconds: drafts, the host's check, the line",
        "what counts is seconds for each token: divide by tokens_a_trip(a, k)",
        "min(range(17), key=...) gives the k with the least; k = 0 is allowed and means: do not draft",
    ],
    minutes=6,
    difficulty=3,
)
def best(answer: object) -> str | Wrong | None:
    """best_draft(a, draft, step, rtt_ms): the k from 0 to 16 with the fewest seconds for each token."""

    def step(n: int) -> float:
        return 0.03 + 0.004 * n

    for a, draft, rtt in ((0.8, 0.005, 80.0), (0.8, 0.005, 5.0), (0.2, 0.04, 5.0), (0.95, 0.001, 600.0),
                          (0.5, 0.02, 80.0)):  # fmt: skip
        value = call(answer, a, draft, step, rtt)
        k = whole(value)
        if k is None:
            return f"a whole number of tokens was expected, got {type(value).__name__}"
        if not 0 <= k <= MOST:
            return Wrong(f"k is {k}, and 0 to {MOST} were asked for", 3)
        cost = price(a, draft, step, rtt)
        right = min(range(MOST + 1), key=cost)
        if cost(k) <= cost(right) * 1.0001:
            continue
        here = f"a = {a:g}, {1000 * draft:g} ms a draft, round trip {rtt:g} ms"
        if right == 0:
            return Wrong(f"drafting does not pay there, and you draft {k}: {here}", 3)
        if k == 0:
            return Wrong(f"drafting pays there, and you do not: {here}", 1)
        if k == max(range(MOST + 1), key=lambda k: expected(a, k)):
            return Wrong(f"more tokens a round trip is not fewer seconds a token: {here}", 2)
        return Wrong(f"{'fewer' if k > right else 'more'} drafts take less time for each token: {here}", 1)
    return None


@exercise(
    "06.7",
    title="A prompt in pieces",
    hints=[
        "each piece takes t / chunks + extra at a stage that takes t for the whole prompt",
        "the first piece goes through all stages: sum of its times; each later one leaves the slowest stage after it",
        "(chunks - 1) times the slowest stage's time of a piece; the slowest one sets the pace, wherever it stands",
        "the pieces are under way at once and share one round trip: add rtt_ms / 1000 once",
    ],
    minutes=7,
    difficulty=4,
)
def pieces(answer: object) -> str | Wrong | None:
    """makespan(stages, chunks, extra, rtt_ms): when the last piece has left the last stage."""
    for stages, chunks, extra, rtt in (
        ((0.1, 0.4, 0.2), 1, 0.0, 80.0), ((0.1, 0.4, 0.2), 4, 0.0, 80.0), ((0.5, 0.1, 0.2), 8, 0.002, 30.0),
        ((0.1, 0.1, 0.6), 3, 0.01, 0.0), ((0.3, 0.3, 0.3), 6, 0.0, 600.0),
    ):  # fmt: skip
        value = call(answer, stages, chunks, extra, rtt)
        seconds = number(value)
        if seconds is None:
            return f"a number of seconds was expected, got {type(value).__name__}"
        times, line = [t / chunks + extra for t in stages], rtt / 1000
        right = sum(times) + (chunks - 1) * max(times) + line
        if close(seconds, right):
            continue
        here = f"for stages of {', '.join(f'{t:g}' for t in stages)} s in {chunks} pieces, {1000 * extra:g} ms extra"
        for said, hint, wrong in (
            ("nothing overlaps: a stage may work on one piece while the next one works on another", 2,
             sum(times) * chunks + line),
            ("every piece pays a round trip of its own", 4, right + (chunks - 1) * line),
            ("the round trip is missing", 4, right - line),
            ("the extra time of a piece is missing", 1, (sum(stages) + (chunks - 1) * max(stages)) / chunks + line),
            ("every stage takes as long as for the whole prompt", 1,
             sum(t + extra for t in stages) + (chunks - 1) * (max(stages) + extra) + line),
            ("the first stage is not always the slowest one", 3, sum(times) + (chunks - 1) * times[0] + line),
            ("the last stage is not always the slowest one", 3, sum(times) + (chunks - 1) * times[-1] + line),
            ("one piece too many waits for the slowest stage", 3, right + max(times)),
            ("the first piece must pass the other stages too", 2, chunks * max(times) + line),
        ):  # fmt: skip
            if close(seconds, wrong):
                return Wrong(f"{said}, {here}", hint)
        return Wrong(f"too {'long' if seconds > right else 'short'} {here}", 2)
    return None
