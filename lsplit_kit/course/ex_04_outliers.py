"""Checks for chapter 04, continued: channels that are far larger than all others, and a rotation that spreads them."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from lsplit_kit.course.calling import whole
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.tensors import draw, near, tensor_of

STEADY, SWINGING, MODERATE, SPIKE, SMALL = 17, 5, 88, 60, 70  # channels of the made-up hidden states


def _hidden() -> Tensor:
    """Hidden states [40, 96], one channel of each kind that an easier rule would take wrongly."""
    hidden = draw(31, 40, 96)
    hidden[:, STEADY] -= 15  # its standard deviation is like all others'
    hidden[:, SWINGING] = 12 * hidden[:, SWINGING].sign() + hidden[:, SWINGING]  # its mean is near 0
    hidden[:, MODERATE] *= 7 / hidden[:, MODERATE].square().mean().sqrt()  # under six times the mean channel
    hidden[3, SPIKE] = 18  # one value only
    hidden[:, SMALL] *= 4
    return hidden


@exercise(
    "04.3",
    title="Find the outlier channels",
    hints=[
        "hidden is [tokens, channels]: square the values, take the mean over the tokens, dim 0, and then the root",
        "a mean lets signs cancel, a deviation from it misses what never changes, a largest value is one token's",
        "large > 6 * large.median() says yes or no for each channel; .nonzero().flatten() gives the numbers of the yes",
    ],
    minutes=3,
    difficulty=2,
)
def outliers(answer: object) -> str | Wrong | None:
    """outliers(hidden [T, d]): numbers of the channels whose rms is more than six times the median channel's."""
    hidden = _hidden()
    value = call(answer, hidden.clone())
    if isinstance(value, Tensor) and value.dtype is torch.bool:
        return Wrong("True or False for each channel; the numbers of the true ones were expected", 3)
    found: set[int] | None = None
    with suppress(Exception):  # one number, or something that is no list of numbers
        listed = [whole(x) for x in value]  # type: ignore[attr-defined]
        found = {x for x in listed if x is not None} if None not in listed else None
    if found is None:
        return f"a list of channel numbers was expected, got {type(value).__name__}"
    if not found:
        return Wrong("no channel was found", 1)
    if any(not 0 <= x < hidden.shape[1] for x in found):
        return Wrong("the channels of this tensor are numbered from 0 to 95", 3)
    for channel, missing in (
        (STEADY, "a channel with nearly the same large value in every token is missing"),
        (SWINGING, "a channel that is large in every token, with both signs, is missing"),
    ):
        if channel not in found:
            return Wrong(missing, 2)
    if SPIKE in found:
        return Wrong("a channel that is large in one token only is among them", 2)
    if MODERATE not in found:
        return Wrong("a channel more than six times as large as the median one is missing", 3)
    if found != {STEADY, SWINGING, MODERATE}:
        return Wrong("a channel not six times as large as the median one is among them", 3)
    return None


@exercise(
    "04.4",
    title="Spread them by a rotation",
    hints=[
        "hidden.reshape(-1, size) makes a row of every block; in the end reshape to hidden.shape",
        "rows @ matrix / size ** 0.5: without the root the values grow, and twice is not back",
    ],
    minutes=4,
    difficulty=3,
)
def spread(answer: object) -> str | Wrong | None:
    """spread(hidden [..., d], size): blocks of `size` neighbours times the Hadamard matrix over the root of size."""
    for shape, size, place in (((2, 5, 128), 64, (0, 2, 70)), ((3, 48), 16, (1, 9))):
        alone = torch.zeros(shape)
        alone[place] = 8.0
        got = tensor_of(call(answer, alone.clone(), size), shape, "the rotated tensor")
        if isinstance(got, Wrong):
            return got
        block = torch.zeros(shape, dtype=torch.bool)
        start = place[-1] // size * size
        block[(*place[:-1], slice(start, start + size))] = True
        if bool((got[~block].abs() > 1e-6).any()):
            return Wrong(f"a single value was spread beyond its block of {size}", 1)
        size_of, right = got[block].abs(), 8 / size**0.5
        if not near(size_of, torch.full_like(size_of, float(size_of.mean()))):
            return Wrong(f"a single value was not spread evenly over its block of {size}", 1)
        if not near(size_of, torch.full_like(size_of, right)):
            more = "larger" if float(size_of.mean()) > right else "smaller"
            return Wrong(f"the block has become {more} as a whole; a rotation keeps its length", 2)
        full = draw(42, *shape)
        twice = tensor_of(call(answer, call(answer, full.clone(), size), size), shape, "the tensor rotated twice")
        if isinstance(twice, Wrong):
            return twice
        if not near(twice, full):
            return Wrong("rotated twice, the values are not what they were", 2)
    return None
