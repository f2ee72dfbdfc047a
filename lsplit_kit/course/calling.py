"""Calling what a learner wrote: does it take these arguments, is it still the stub, which code is theirs."""

from __future__ import annotations

import dis
import inspect
import operator
from types import CodeType

# All that a body of `pass`, `...` or a docstring alone compiles to.
NOTHING = {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}


class NotAttempted(Exception):
    """The learner's function is still the stub."""


class Unfit(Exception):
    """The learner's function cannot be judged; the text is for the learner."""


def blank(answer: object) -> bool:
    """Whether an answer, or a part of it, is still the `...` of the stub."""
    parts: list[object] = [answer]
    if type(answer) in (tuple, list):
        parts = list(answer)  # type: ignore[call-overload]
    elif type(answer) is dict:
        parts = list(answer.values())
    return any(part is ... for part in parts)


def idle(answer: object) -> bool:
    """Whether a function has no body but `pass`, `...` or a docstring."""
    code = getattr(answer, "__code__", None)
    return isinstance(code, CodeType) and all(step.opname in NOTHING for step in dis.get_instructions(code))


def fit(answer: object, *args: object, **kwargs: object) -> None:
    """Raises Unfit, with the call in words, when `answer` does not take these arguments."""
    if not callable(answer):
        raise Unfit(f"a function was expected, got {type(answer).__name__}")
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # some built-in functions do not tell
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        shown = ", ".join([*map(_short, args), *(f"{name}={_short(value)}" for name, value in kwargs.items())])
        name = getattr(answer, "__name__", "your function")
        names = ", ".join(signature.parameters)
        raise Unfit(f"it was called as {name}({shown}), but it takes ({names}): {error}") from None


def _short(value: object) -> str:
    if isinstance(value, (int, float, str)):
        return repr(value)
    shape = getattr(value, "shape", None)
    return f"<{type(value).__name__}{'' if shape is None else f' of shape {tuple(shape)}'}>"


def whole(value: object) -> int | None:
    """A whole number as an int, from numpy and 0-d tensors too; None for anything else, True and False included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except Exception:  # a tensor of several values has its own errors for this
        return None


def number(value: object) -> float | None:
    """A number as a float, from numpy and 0-d tensors too; None for anything else, text and True included."""
    try:
        return None if isinstance(value, (bool, str)) else float(value)  # type: ignore[arg-type]
    except Exception:
        return None


def own_code(answer: object) -> set[CodeType]:
    """The code of a learner's function, of all functions in a tuple or list, or of all methods of a learner's class."""
    if type(answer) in (tuple, list):
        return {code for part in answer for code in own_code(part)}  # type: ignore[attr-defined]
    owner = answer if isinstance(answer, type) else type(answer)
    kin = [kind for kind in owner.__mro__ if kind.__module__ == owner.__module__]
    found = [*(part for kind in kin for part in vars(kind).values()), answer]
    return {code for part in found if isinstance(code := _code(part), CodeType)}


def _code(part: object) -> object:
    try:
        return getattr(getattr(part, "__func__", part), "__code__", None)
    except Exception:
        return None
