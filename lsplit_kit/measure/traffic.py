"""What a cache policy sends, by counting: bytes each way, what is saved against policy `none`, and from when on.

The counts are those of one row through `generate()`. Step 1 is the prefill: the P positions of the prompt cross both
ways and the first new token follows. Each later step brings one position more, and the last new token is never fed
back. So step i of policy `none` sends P + i - 1 vectors; `hidden` and `kv` send P in step 1 and one in each later step.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rpyc.core import brine, consts

from ..errors import UnsupportedOption
from ..wire.here import FRAME_OVERHEAD
from ..wire.message import POLICIES

if TYPE_CHECKING:
    import pandas as pd

WAYS = ("up", "down", "both")
ONE_BYTE = 160  # RPyC's brine writes -48 to 159 in one byte, larger integers as a tag, a length and decimal digits
ValueBytes = int | tuple[int, int]


class Ways(NamedTuple):
    """Bytes, or vectors, in each direction."""

    up: int
    down: int

    @property
    def both(self) -> int:
        """Both directions together."""
        return self.up + self.down

    def of(self, way: str) -> int:
        """Those of "up", "down" or "both"; raises UnsupportedOption."""
        if way not in WAYS:
            raise UnsupportedOption(f"way takes one of {', '.join(WAYS)}, got {way!r}.")
        return int(getattr(self, way))


def reply_vectors(policy: str, prompt: int, new: int) -> int:
    """Hidden vectors that cross in each direction while `new` tokens follow `prompt` tokens; raises UnsupportedOption.

    `none`: N P + N (N - 1) / 2. `hidden` and `kv`: P + N - 1.
    """
    _check(policy, prompt, new)
    return new * prompt + new * (new - 1) // 2 if policy == "none" else prompt + new - 1


def token_vectors(policy: str, prompt: int, token: int) -> int:
    """Hidden vectors that cross in each direction for new token number `token`, from 1; raises UnsupportedOption."""
    _check(policy, prompt, token)
    return prompt + token - 1 if policy == "none" else prompt if token == 1 else 1


def reply_bytes(
    policy: str, prompt: int, new: int, width: int, value_bytes: ValueBytes = 4, framed: bool = False
) -> Ways:
    """Bytes of a whole reply; `framed`: with the frames around the payloads, else payload only.

    value_bytes: of a number, or (up, down). Frames are those of the first session of a new link, without the one that
    opens it (`open_bytes`), while a payload fits one frame. Raises UnsupportedOption.
    """
    _check(policy, prompt, new)
    return Ways(
        *(int(each.sum()) for each in _steps(policy, prompt, np.arange(1, new + 1), width, value_bytes, framed))
    )


def token_bytes(
    policy: str, prompt: int, token: int, width: int, value_bytes: ValueBytes = 4, framed: bool = False
) -> Ways:
    """Bytes of the step that gives new token number `token`, from 1; otherwise as `reply_bytes`."""
    _check(policy, prompt, token)
    return Ways(*(int(each[0]) for each in _steps(policy, prompt, np.array([token]), width, value_bytes, framed)))


def reduction(
    policy: str, prompt: int, new: int, width: int = 1, value_bytes: ValueBytes = 1, framed: bool = False,
    way: str = "both",
) -> float:  # fmt: skip
    """The share of policy `none`'s bytes that `policy` saves over a whole reply, 0 to 1; raises UnsupportedOption.

    Of payloads in one number format it is 1 - (P + N - 1) / (N P + N (N - 1) / 2) in every direction.
    """
    cached, whole = (reply_bytes(p, prompt, new, width, value_bytes, framed).of(way) for p in (policy, "none"))
    return 1 - cached / whole


def token_reduction(
    policy: str, prompt: int, token: int, width: int = 1, value_bytes: ValueBytes = 1, framed: bool = False,
    way: str = "both",
) -> float:  # fmt: skip
    """The share that `policy` saves of one step, that of new token number `token`; raises UnsupportedOption.

    Of payloads, after the prefill: 1 - 1 / (P + t - 1).
    """
    cached, whole = (token_bytes(p, prompt, token, width, value_bytes, framed).of(way) for p in (policy, "none"))
    return 1 - cached / whole


def reaches(
    prompt: int, share: float = 0.99, width: int = 1, value_bytes: ValueBytes = 1, framed: bool = False,
    way: str = "both", one: bool = False, longest: int | None = None,
) -> int | None:  # fmt: skip
    """The fewest new tokens with which a cache saves `share` of policy `none`'s bytes, None if it never does.

    one: of a single step instead, so the first new token whose own step saves that much. longest: positions that the
    model takes, which bounds P + N - 1. Compared as fractions, without rounding. Raises UnsupportedOption.
    """
    _check("kv", prompt, 1)
    Ways(0, 0).of(way)
    part = Fraction(str(share))
    if part >= 1 or (longest is not None and longest < prompt):
        return None
    most = None if longest is None else longest - prompt + 1
    span = 256
    while True:
        span = span if most is None else min(span, most)
        tokens = np.arange(1, span + 1)
        cached, whole = (_way(_steps(p, prompt, tokens, width, value_bytes, framed), way) for p in ("kv", "none"))
        if not one:
            cached, whole = cached.cumsum(), whole.cumsum()
        found = np.flatnonzero(cached * part.denominator <= (part.denominator - part.numerator) * whole)
        if len(found):
            return int(found[0]) + 1
        if span == most:
            return None
        span *= 4


def cache_table(policy: str, prompt: int, new: int, width: int, value_bytes: ValueBytes = 4) -> pd.DataFrame:
    """Bytes of a whole reply and of its last token, payload alone and framed: up, down, both, and the share saved.

    One row for each (of, bytes); the columns `saved up`, `saved down` and `saved both` are shares of policy `none`'s.
    """
    import pandas as pd

    rows = {}
    for what, count in (("reply", reply_bytes), ("last token", token_bytes)):
        for name, framed in (("payload", False), ("frame", True)):
            mine, whole = (count(p, prompt, new, width, value_bytes, framed) for p in (policy, "none"))
            bytes_ = {way: mine.of(way) for way in WAYS}
            rows[what, name] = bytes_ | {f"saved {way}": 1 - mine.of(way) / whole.of(way) for way in WAYS}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["of", "bytes"])


def open_bytes(policy: str, up: str = "fp32", down: str = "fp32") -> Ways:
    """Frame bytes of the exchange that opens the first session of a new link, with the codecs' specs."""
    return Ways(_call(1, "open", (policy, up, down)), len(brine.dump((1, (consts.LABEL_VALUE, 1)))) + FRAME_OVERHEAD)


def _steps(
    policy: str, prompt: int, tokens: np.ndarray, width: int, value_bytes: ValueBytes, framed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Bytes up and down of the steps that give these new tokens, int64."""
    pair = value_bytes if isinstance(value_bytes, tuple) else (value_bytes, value_bytes)
    for name, number in (("width", width), ("value_bytes", pair[0]), ("value_bytes", pair[1])):
        if not _whole(number):
            raise UnsupportedOption(f"{name} takes a whole number from 1 on, got {number!r}.")
    positions = tokens.astype(np.int64) + prompt - 1
    vectors = positions if policy == "none" else np.where(tokens == 1, prompt, 1).astype(np.int64)
    up, down = (vectors * width * size for size in pair)
    if not framed:
        return up, down
    start = positions - vectors
    # Session 1, opened by call 1: step number i is call i + 1. Zeros stand for what is counted apart.
    empty = _call(0, "step", (1, 0, 0, 1, 0, b"")) - 5  # 4 integers, and an empty payload's own mark
    numbers = _digits(tokens + 1) + _digits(tokens) + _digits(start) + _digits(vectors)
    answer = len(brine.dump((0, (consts.LABEL_VALUE, b"")))) + FRAME_OVERHEAD - 2
    return empty + numbers + up + _mark(up), answer + _digits(tokens + 1) + down + _mark(down)


def _call(seq: int, name: str, args: tuple) -> int:
    """Bytes of the frame of one call."""
    boxed = (consts.LABEL_VALUE, (None, name, args, ()))
    return len(brine.dump((seq, (consts.HANDLE_CALLATTR, boxed)))) + FRAME_OVERHEAD


def _digits(numbers: np.ndarray) -> np.ndarray:
    """Bytes that brine takes for each of these integers, from 0 on."""
    digits = 1 + sum((numbers >= 10**k).astype(np.int64) for k in range(1, 12))
    return np.where(numbers < ONE_BYTE, 1, 2 + digits)


def _mark(sizes: np.ndarray) -> np.ndarray:
    """Bytes that brine puts before byte strings of these sizes."""
    return np.where(sizes < 5, 1, np.where(sizes < 256, 2, 5))


def _way(steps: Sequence[np.ndarray], way: str) -> np.ndarray:
    return steps[0] + steps[1] if way == "both" else steps[WAYS.index(way)]


def _whole(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and number >= 1  # type: ignore[operator]


def _check(policy: str, prompt: int, new: int) -> None:
    if policy not in POLICIES:
        raise UnsupportedOption(f"Unknown cache policy {policy!r}; choose one of {', '.join(POLICIES)}.")
    for name, number in (("prompt", prompt), ("new tokens", new)):
        if not _whole(number):
            raise UnsupportedOption(f"{name} takes a whole number from 1 on, got {number!r}.")
