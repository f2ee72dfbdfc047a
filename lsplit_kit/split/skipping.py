"""Skipped calls: where the noise hardly changes from step to step, the next one is guessed from the last two.

Both sides know the noises that crossed, after rounding, and guess alike: the factor is 1 or 1/2, which rounds nothing.
A guess is no noise to guess from, so never are two calls in a row skipped. After EC-Diff (arXiv 2507.11980), which
extrapolates the noise of a remote denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import FrameError, UnsupportedOption

CHANGE = 0.22  # "auto": a call is skipped where the noise changed by less than this share of itself in its last step
MOST = 0.5  # share of the calls
ENDS = (
    2  # calls at the beginning and at the end of a run that are never skipped by a share; "auto" skips the last but one
)

Skip = float | str | None


def skip_of(asked: object, at: str) -> Skip:
    """What `skip=` takes: None, "auto", or a share of the calls; raises UnsupportedOption."""
    number = isinstance(asked, (int, float)) and not isinstance(asked, bool) and 0 <= asked <= MOST
    if asked is None or asked == 0 and number:
        return None
    if not number and asked != "auto":
        raise UnsupportedOption(f'skip takes "auto" or a share of the calls from 0 to {MOST}, got {asked!r}.')
    if at != "denoiser":
        raise UnsupportedOption("Calls are skipped of a whole denoiser only; use at='denoiser'.")
    return "auto" if asked == "auto" else float(asked)  # type: ignore[arg-type]


def asked_of(skip: Skip, position: int, calls: int) -> bool | float:
    """What a call says of itself: True (to be skipped), a change below which it may be, or False.

    position: from 0, of so many calls in the run; the first two and the last are always computed.
    """
    last = 1 if skip == "auto" else ENDS
    if skip is None or not ENDS <= position < calls - last:
        return False
    if isinstance(skip, str):
        return CHANGE
    middle = calls - 2 * ENDS
    wanted, here = min(round(skip * calls), (middle + 1) // 2), position - ENDS
    return (here + 1) * wanted // middle > here * wanted // middle


class Past:
    """The last two noises of a run that were computed, each with its position."""

    def __init__(self) -> None:
        self.known: list[tuple[int, Tensor]] = []

    def add(self, position: int, noise: Tensor) -> None:
        """A noise was computed."""
        self.known = [*self.known[-1:], (position, noise)]

    def forget(self) -> None:
        """What was is no guide any more."""
        self.known = []

    def skips(self, position: int, asked: object, guided: Callable[[Tensor], Tensor] = lambda noise: noise) -> bool:
        """Whether a call that asks so is skipped; raises FrameError for what is no such question.

        guided: makes of what was computed the noise that the scheduler steps with, whose change is what counts.
        """
        if asked is False or asked is None:
            return False
        number = type(asked) in (int, float) and math.isfinite(asked) and asked >= 0  # type: ignore[arg-type,operator]
        if asked is not True and not number:
            raise FrameError("skip is true, or how much a noise may have changed.")
        if len(self.known) < 2:
            return False
        (before, old), (last, new) = self.known
        if position != last + 1 or last - before not in (1, 2) or old.shape != new.shape or old.dtype != new.dtype:
            return False
        return asked is True or _changed(guided(old), guided(new)) < float(asked) * (last - before)  # type: ignore[arg-type]

    def guess(self, position: int) -> Tensor:
        """The next noise, on the straight line through the last two."""
        (before, old), (last, new) = self.known
        return new + (new - old) * ((position - last) / (last - before))

    def size(self) -> int:
        """Bytes kept."""
        return sum(noise.nbytes for _, noise in self.known)


def _changed(old: Tensor, new: Tensor) -> float:
    """By how much a noise changed, as a share of itself."""
    before, after = old.to(torch.float64), new.to(torch.float64)
    norm = float(after.norm())
    return float((after - before).norm()) / norm if norm > 0 else math.inf
