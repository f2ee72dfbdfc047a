"""What each option of an attack takes, by its name: the same name means the same in every attack."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import UnsupportedOption


class Option(NamedTuple):
    """What an option takes, in words, and whether a value is that."""

    takes: str
    fits: Callable[[Any], bool]

    def or_none(self) -> Option:
        """The same, or None."""
        return Option(f"{self.takes}, or None", lambda value: value is None or self.fits(value))


def whole(least: int | None = None) -> Option:
    """A whole number, from `least` on."""
    said = "a whole number" if least is None else f"a whole number from {least}"
    return Option(said, lambda value: is_whole(value) and (least is None or value >= least))


def number(above: float | None = None) -> Option:
    """A number above something, or from 0 on."""

    def fits(value: Any) -> bool:
        real = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        return real and (value >= 0 if above is None else value > above)

    return Option("a number from 0" if above is None else f"a number above {above:g}", fits)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _rises(value: Any) -> bool:
    if not isinstance(value, tuple | list) or not value or not all(map(is_whole, value)):
        return False
    return value[0] >= 1 and all(a < b for a, b in itertools.pairwise(value))


TRUTH = Option("True or False", lambda value: isinstance(value, bool))
SCALE = Option("a number", lambda value: number().fits(abs(value)) if isinstance(value, Real) else False)
OPTIONS = {
    "widths": Option("one or more whole numbers from 1, each larger than the one before", _rises),
    "reads": Option("'up' or 'down'", lambda value: value in ("up", "down")),
    "mean": Option("a latent [C, h, w]", lambda value: isinstance(value, Tensor) and value.dim() == 3).or_none(),
    "step": whole(),
    "guidance": SCALE.or_none(),
    "joint": TRUTH.or_none(),
    **dict.fromkeys(("ahead", "afresh"), TRUTH),
    **dict.fromkeys(("steps", "hidden", "epochs", "pairs", "pictures", "calls"), whole(1)),
    **dict.fromkeys(("contexts", "seed", "queries", "iterations"), whole(0)),
    **dict.fromkeys(("tolerance", "rate"), number(above=0)),
    **dict.fromkeys(("bound", "penalty", "weight", "pull"), number()),
}


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raise UnsupportedOption where an attack's option is not what its name takes."""
    for option, value in options.items():
        if option in OPTIONS and not OPTIONS[option].fits(value):
            raise UnsupportedOption(f"{name}: {option} takes {OPTIONS[option].takes}, got {value!r}.")
