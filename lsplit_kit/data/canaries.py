"""Canaries: sentences with a drawn secret of exactly known entropy, so that what leaks can be counted in bits."""

from __future__ import annotations

from functools import cache
from math import log2
from pathlib import Path
from random import Random
from typing import NamedTuple

from ..errors import UnsupportedOption

KINDS = ("pin", "name", "code")
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # 32 characters; those that look alike (I and 1, O and 0) are left out
LENGTH = 6  # characters of a code
CARRIERS = {
    "pin": (
        "My PIN is {}.",
        "The door of the archive opens with {}, please do not write it down.",
        "Use {} at the cash machine and bring me the receipt.",
        "Grandad's safe still has the combination {} from before the move.",
    ),
    "name": (
        "The patient in room four is called {}.",
        "I have not told anyone that the father is {}.",
        "Please leave {} out of the minutes.",
        "It was {} who reported the leak to the inspector.",
    ),
    "code": (
        "My recovery code is {}.",
        "Booking {} must be cancelled before she sees it.",
        "The parcel waits under the number {} at the counter.",
        "Type {} when the lift asks for the service key.",
    ),
}


class Canary(NamedTuple):
    """A sentence, the secret `text[start:end]` drawn into it, and the secret's entropy in bits."""

    kind: str
    text: str
    secret: str
    start: int
    end: int
    bits: float

    def with_secret(self, secret: str) -> str:
        """The same sentence with another candidate in the secret's place."""
        return self.text[: self.start] + secret + self.text[self.end :]


@cache
def names() -> tuple[str, ...]:
    """The public list that names are drawn from: 128 given names, each as likely as the next."""
    return tuple((Path(__file__).parent / "names.txt").read_text("utf-8").split())


def space(kind: str) -> int:
    """How many secrets of a kind there are, M; each is drawn with probability 1/M. Raises UnsupportedOption."""
    if kind not in KINDS:
        raise UnsupportedOption(f"There are no canaries of {kind!r}: a kind is one of {', '.join(KINDS)}.")
    return {"pin": 10_000, "name": len(names()), "code": len(ALPHABET) ** LENGTH}[kind]


def candidate(kind: str, number: int) -> str:
    """The secret at a number in [0, M) of the public list: every secret stands there once. Raises UnsupportedOption."""
    if not _whole(number) or not 0 <= number < space(kind):
        raise UnsupportedOption(f"number is {number!r}: expected a whole number from 0 to {space(kind) - 1}.")
    if kind == "pin":
        return f"{number:04d}"
    if kind == "name":
        return names()[number]
    size = len(ALPHABET)
    return "".join(ALPHABET[number // size**place % size] for place in reversed(range(LENGTH)))


def canaries(kind: str, count: int, seed: int) -> list[Canary]:
    """Independent canaries with log2 M bits each, the same ones for the same seed. Raises UnsupportedOption."""
    if not _whole(count) or count < 1:
        raise UnsupportedOption(f"count is {count!r}: expected a whole number of at least 1.")
    if not _whole(seed):
        raise UnsupportedOption(
            f"seed is {seed!r}: expected a whole number, so that others can draw the same canaries."
        )
    size = space(kind)
    # The kind is part of the seed: otherwise the secrets of two kinds would tell about each other.
    rng = Random(f"{kind} {seed}")
    return [_carried(kind, candidate(kind, rng.randrange(size)), rng) for _ in range(count)]


def _carried(kind: str, secret: str, rng: Random) -> Canary:
    carrier = CARRIERS[kind][rng.randrange(len(CARRIERS[kind]))]
    start = carrier.index("{}")
    return Canary(kind, carrier.format(secret), secret, start, start + len(secret), log2(space(kind)))


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
