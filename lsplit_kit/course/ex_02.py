"""Checks for chapter 02, the cache: bytes without one, what it saves and from when on, and what is computed again."""

from __future__ import annotations

import math

from lsplit_kit.course.calling import number, whole
from lsplit_kit.course.checks import Wrong, call, exercise

LENGTHS = ((3, 8), (5, 1), (20, 100), (1, 2))


def _asked(prompt: int, new: int) -> str:
    return f"{prompt} prompt and {new} new tokens"


@exercise(
    "02.1",
    title="Count the bytes without a cache",
    hints=[
        "step 1 sends the prompt; each later step sends everything once more, with one position more",
        "prompt + (prompt + 1) + ... has `new` terms, the last one is prompt + new - 1",
        "vectors times width times value_bytes",
    ],
    minutes=4,
    difficulty=2,
)
def bytes_none(answer: object) -> str | Wrong | None:
    """bytes_none(prompt, new, width, value_bytes): payload bytes up of a reply under policy none."""
    for (prompt, new), width, size in zip(LENGTHS, (576, 64, 64, 1), (4, 4, 2, 1), strict=True):
        value = call(answer, prompt, new, width, size)
        found, unit = whole(value), width * size
        right = new * prompt + new * (new - 1) // 2
        if found is None:
            whole_float = isinstance(value, float) and value == int(value)
            return f"a whole number was expected, got {type(value).__name__}" + (
                "; divide with //" if whole_float else ""
            )
        if found == right * unit:
            continue
        asked = _asked(prompt, new)
        if found == right:
            return Wrong(f"for {asked} that is the number of vectors", 3)
        if found == (prompt + new - 1) * unit:
            return Wrong(f"for {asked} that is what crosses with a cache", 1)
        if found in (new * (prompt + new) * unit, new * prompt * unit, new * (prompt + new - 1) * unit):
            return Wrong(f"for {asked} every step was counted as equally long", 1)
        if found == (right + prompt + new) * unit or found == (right + new) * unit:
            return Wrong(f"for {asked} one step or one position a step too much", 2)
        if found == 2 * right * unit:
            return f"for {asked} that is up and down together; up alone was asked for"
        return Wrong(f"{'fewer' if found < right * unit else 'more'} bytes than cross for {asked}", 2)
    return None


@exercise(
    "02.3",
    title="Derive what the cache saves",
    hints=[
        "1 - with / without, both counted in vectors: width and bytes a value cancel",
        "with a cache every position crosses once, and the last new token never: prompt + new - 1",
        "without one: new * prompt + new * (new - 1) / 2",
    ],
    minutes=4,
    difficulty=2,
)
def saving(answer: object) -> str | Wrong | None:
    """saving(prompt, new): the share of the bytes of policy none that a cache saves in a whole reply, 0 to 1."""
    for prompt, new in (*LENGTHS, (400, 60)):
        value = call(answer, prompt, new)
        found = number(value)
        if found is None:
            return f"a number was expected, got {type(value).__name__}"
        cached, none = prompt + new - 1, new * prompt + new * (new - 1) / 2
        asked = _asked(prompt, new)
        if math.isclose(found, 1 - cached / none, rel_tol=1e-6, abs_tol=1e-9):
            continue
        if math.isclose(found, cached / none, rel_tol=1e-6):
            return Wrong(f"for {asked} that is the share that still crosses", 1)
        if math.isclose(found, 100 * (1 - cached / none), rel_tol=1e-6):
            return Wrong("a share from 0 to 1 was asked for, not per cent", 1)
        if math.isclose(found, 1 - 1 / (prompt + new - 1), rel_tol=1e-6, abs_tol=1e-9):
            return Wrong(f"for {asked} that is what the last token saves, not the whole reply", 3)
        if math.isclose(found, 1 - (prompt + new) / (none + prompt + new), rel_tol=1e-6):
            return Wrong(f"for {asked} the last new token was sent too", 2)
        return Wrong(f"{'less' if found < 1 - cached / none else 'more'} than is saved for {asked}", 3)
    return None


@exercise(
    "02.4",
    title="Where 99 % begins",
    hints=[
        "the saving grows with every new token: try 1, 2, 3, ... and return the first number that is enough",
        "at the border compare with >=; whole numbers are safer: 100 * with <= without is 99 % exactly",
    ],
    minutes=4,
    difficulty=2,
)
def first(answer: object) -> str | Wrong | None:
    """first(prompt, share): the fewest new tokens with which a whole reply saves that share."""
    from lsplit_kit.measure.traffic import reaches

    for prompt, share in ((20, 0.99), (1, 0.99), (1, 0.5), (400, 0.9), (5000, 0.99)):
        value = call(answer, prompt, share)
        found, right = whole(value), reaches(prompt, share)
        assert right is not None
        if found is None:
            return f"a whole number was expected, got {type(value).__name__}"
        if found == right:
            continue
        asked = f"{prompt} prompt tokens and {share:.0%}"
        alone = reaches(prompt, share, one=True)
        if found == alone:
            return Wrong(f"for {asked} that is the first token that saves so much by itself, not the reply", 1)
        if found == right + prompt or found == right + prompt - 1:
            return f"for {asked} that is a position; the number of new tokens was asked for"
        if found < right:
            return Wrong(f"for {asked} a reply of {found} new tokens does not save that much yet", 1)
        near = found == right + 1
        return Wrong(f"for {asked} a reply of fewer new tokens than {found} saves that much", 2 if near else 1)
    return None


@exercise(
    "02.7",
    title="Price what is computed again",
    hints=[
        "2 FLOPs for each weight and each position that the body passes over; count the passes",
        "kv passes over prompt + new - 1 positions in all; each of them once",
        "hidden sends one vector, but the body passes over all positions in every step, as under none",
    ],
    minutes=4,
    difficulty=3,
)
def price(answer: object) -> str | Wrong | None:
    """flops(policy, prompt, new, weights): FLOPs of the body's matrices in a whole reply."""
    for policy in ("kv", "none", "hidden"):
        for prompt, new in LENGTHS:
            weights = 1000
            value = call(answer, policy, prompt, new, weights)
            found = number(value)
            if found is None:
                return f"a number was expected, got {type(value).__name__}"
            once, every = prompt + new - 1, new * prompt + new * (new - 1) // 2
            right = 2 * weights * (once if policy == "kv" else every)
            if math.isclose(found, right, rel_tol=1e-9):
                continue
            asked = f"{policy}, {_asked(prompt, new)}"
            if math.isclose(found, right / 2, rel_tol=1e-9):
                return Wrong(f"{asked}: a weight is one multiplication and one addition", 1)
            if policy == "hidden" and math.isclose(found, 2 * weights * once, rel_tol=1e-9):
                return Wrong(f"{asked}: that is what kv computes", 3)
            return Wrong(
                f"{asked}: {'fewer' if found < right else 'more'} than are computed", 2 if policy == "kv" else 3
            )
    return None
