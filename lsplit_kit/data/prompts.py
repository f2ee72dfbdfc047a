"""Three hundred prompts that nobody would like to see read, written for this kit: what an inversion is tested on."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..errors import UnsupportedOption

DOMAINS = ("everyday", "medical", "legal", "code", "finance", "language")
_FOLDER = Path(__file__).parent / "prompts"


class Prompt(NamedTuple):
    """One line that a learner might type, and the domain it belongs to."""

    domain: str
    text: str


def prompts(domain: str | None = None, count: int | None = None) -> list[Prompt]:
    """The first `count` prompts of a domain, or of all six in turn; all without a count. Raises UnsupportedOption."""
    if domain is not None and domain not in DOMAINS:
        raise UnsupportedOption(f"There are no prompts of {domain!r}: a domain is None or one of {', '.join(DOMAINS)}.")
    if domain is None:
        # Domains in turn, so that any first part holds equally many of each, give or take one.
        found = [prompt for row in zip(*map(_read, DOMAINS), strict=True) for prompt in row]
    else:
        found = list(_read(domain))
    if count is None:
        return found
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(found):
        raise UnsupportedOption(f"count is {count!r}: expected a whole number from 1 to {len(found)}, or None for all.")
    return found[:count]


@cache
def _read(domain: str) -> tuple[Prompt, ...]:
    lines = (_FOLDER / f"{domain}.txt").read_text("utf-8").splitlines()
    return tuple(Prompt(domain, line) for line in lines)
