"""Foretelling: in lockstep the calls to come differ from the one made now by their time step alone.

A pipeline goes through its scheduler's time steps in order. What it gives its denoiser of each is the time itself, or
the same simple function of it at every call: which one, the call made now tells. Everything else stays as it is, and
the host's latent follows its own scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .far import alike

_AS_GIVEN: tuple[Callable[[Tensor, torch.dtype], Tensor], ...] = (
    lambda t, dtype: t.to(dtype),
    lambda t, dtype: t.to(dtype) / 1000,
    lambda t, dtype: (t / 1000).to(dtype),
    lambda t, dtype: ((1000 - t) / 1000).to(dtype),
)


class Foresight:
    """Of one run: which time step it is at, and whether what comes next can be relied on.

    careful: the first call is waited for, because this pipeline may do something between two steps. After a call that
    was not as foretold, more and more calls are waited for before the next are foretold.
    """

    def __init__(self, careful: bool) -> None:
        self.patience, self.calm = int(careful), -1
        self.index = -1  # of the time steps, where the last call was
        self.first = 0

    def came(self, times: object, given: object, calm: bool) -> None:
        """A call at `given` came; calm: its latent is what the host's scheduler makes."""
        self.calm = self.calm + 1 if calm or self.calm < 0 else 0
        known, begun = _read(times), self.index >= 0
        after = range(self.index + 1, len(known))
        self.index = next((i for i in after if _how(known[i], given) is not None), len(known))
        if not begun:
            self.first = self.index

    def position(self, times: object) -> int:
        """Which call of the run this is, from 0; -1 when that is not known."""
        return self.index - self.first if self.index < len(_read(times)) else -1

    def calls(self, times: object, count: object) -> int:
        """How many calls the run has; count: how many the pipeline says, if it does."""
        most = len(_read(times)) - self.first
        return min(most, count) if type(count) is int and count > 0 else most

    def missed(self) -> None:
        """The call that came is not the one foretold."""
        self.patience, self.calm = max(1, 2 * self.patience), 0

    def next(self, times: object, given: object, calls: int) -> list[tuple[Tensor, Tensor]]:
        """(time of the scheduler's step before it, time as the denoiser is given it) of the calls to come."""
        known = _read(times)
        how = _how(known[self.index], given) if self.index < len(known) else None
        if how is None or self.calm < self.patience:
            return []
        assert isinstance(given, Tensor)
        return [
            (known[i - 1].clone(), how(known[i], given.dtype).expand(given.shape).clone())
            for i in range(self.index + 1, self.first + calls)
        ]


def copied(part: Any) -> Any:
    """A part of a call as it is now: a callback may change tensors in place."""
    if isinstance(part, Tensor):
        return part.clone()
    if isinstance(part, dict):
        return {name: copied(inner) for name, inner in part.items()}
    return type(part)(map(copied, part)) if type(part) in (list, tuple) else part


def _read(times: object) -> list[Tensor]:
    return list(times) if isinstance(times, Tensor) and times.dim() == 1 else []


def _how(time: Tensor, given: Any) -> Callable[[Tensor, torch.dtype], Tensor] | None:
    """The function that makes of a scheduler's time what the denoiser was given."""
    if not isinstance(given, Tensor):
        return None
    made = ((how, how(time, given.dtype).expand(given.shape)) for how in _AS_GIVEN)
    return next((how for how, tensor in made if alike(tensor, given)), None)
