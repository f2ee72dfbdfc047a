"""The help topics that every Python carries: about 460 kB of public text to fit and calibrate an attack on."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from ..errors import UnsupportedOption

SPLITS = ("fit", "calibrate", "all")


class Topic(NamedTuple):
    """One help topic of Python: its name and its text."""

    name: str
    text: str


def topics(split: str = "all") -> list[Topic]:
    """The topics of a split by name: "calibrate" is a tenth, "fit" the rest, "all" both. Raises UnsupportedOption."""
    if split not in SPLITS:
        raise UnsupportedOption(f"There is no split {split!r}: expected one of {', '.join(SPLITS)}.")
    try:
        from pydoc_data.topics import topics as texts
    except ImportError:
        raise UnsupportedOption(
            "This Python has no pydoc_data (some Linux distributions strip it): install the full standard library, "
            "or pass texts of your own."
        ) from None
    held = calibrating(texts)
    wanted = [name for name in sorted(texts) if split == "all" or (name in held) == (split == "calibrate")]
    return [Topic(name, texts[name].strip()) for name in wanted]


def calibrating(names: Iterable[str]) -> set[str]:
    """A tenth of the names, rounded: those with the lowest BLAKE2b hash."""
    # By hash and not by place: a topic that a later Python adds moves at most one other across.
    ordered = sorted(names, key=lambda name: blake2b(name.encode()).digest())
    return set(ordered[: round(len(ordered) / 10)])
