"""Answer checks for the tutorials: one short line back, never an exception, never the answer itself."""

from __future__ import annotations

import html
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

from .calling import NotAttempted, Unfit, blank, fit, idle, own_code

NOT_ATTEMPTED, PASSED, NOT_YET, UNKNOWN = "not attempted", "passed", "not yet", "unknown exercise"
Checker = Callable[[object], object]


@dataclass(frozen=True, repr=False)
class Result:
    """What a check says: `status` (four words), `message` (what is wrong), `hint`; true when passed."""

    id: str
    status: str
    message: str = ""
    hint: str = ""

    def __bool__(self) -> bool:
        return self.status == PASSED

    def __repr__(self) -> str:
        line = f"{self.id}: {self.status}" + (f" - {self.message}" if self.message else "")
        return line + (f" (hint: {self.hint})" if self.hint else "")

    def _repr_html_(self) -> str:
        # A sign beside the words, so that colour is not the only cue; role=status is read aloud.
        sign = {PASSED: "&#10003;", NOT_YET: "&#10007;", NOT_ATTEMPTED: "&#9675;"}.get(self.status, "?")
        return f'<p role="status"><strong>{sign}</strong> {html.escape(repr(self))}</p>'


@dataclass(frozen=True)
class Exercise:
    """One exercise: id ("01.3"), title, graded hints, minutes, difficulty 1-5, and its checker."""

    id: str
    title: str
    hints: tuple[str, ...]
    minutes: int
    difficulty: int
    checker: Checker


class Wrong(NamedTuple):
    """A checker's verdict: what is wrong, and the number of the hint that helps with just that (0: none does)."""

    message: str
    hint: int = 0


_REGISTRY: dict[str, Exercise] = {}
_BROKEN: dict[str, str] = {}


def exercise(
    id: str, *, title: str, hints: Sequence[str] = (), minutes: int = 5, difficulty: int = 1
) -> Callable[[Checker], Checker]:
    """Register the decorated checker for exercise `id`; raises ValueError when another exercise has that id.

    The checker gets the learner's answer. It returns None or True when that is right, a sentence or a Wrong that
    says what is wrong, or False for "wrong, see hint 1". The sentence must not hold the right answer.
    """

    def register(checker: Checker) -> Checker:
        old = _REGISTRY.get(id)
        if old and (old.checker.__module__, old.checker.__name__) != (checker.__module__, checker.__name__):
            raise ValueError(f"exercise {id} is already registered by {old.checker.__module__}")
        _REGISTRY[id] = Exercise(id, title, tuple(hints), minutes, difficulty, checker)
        return checker

    return register


def exercises() -> dict[str, Exercise]:
    """Every exercise by id, in order; imports all `ex_*` modules of this room once."""
    import lsplit_kit.course as room

    for info in pkgutil.iter_modules(room.__path__):
        if info.name.startswith("ex_") and info.name not in _BROKEN:
            try:
                importlib.import_module(f"{room.__name__}.{info.name}")
            except Exception as error:  # one broken module must not take the other chapters' checks away
                _BROKEN[info.name] = type(error).__name__
    return dict(sorted(_REGISTRY.items()))


def call(answer: object, *args: object, **kwargs: object) -> object:
    """Call the learner's function for a checker; raises NotAttempted when it is still the stub, Unfit when it cannot be
    called so or returns nothing.
    """
    fit(answer, *args, **kwargs)
    value = answer(*args, **kwargs)  # type: ignore[operator]
    if blank(value) or (value is None and idle(answer)):
        raise NotAttempted
    if value is None:
        raise Unfit("your function returned None; is a `return` missing?")
    return value


def hint(id: str, number: int = 1) -> str:
    """Hint `number` (from 1) of exercise `id`, or a sentence that says there is none; never raises."""
    try:
        found = exercises().get(id)
        if found is None:
            return f"no exercise has the id {id}"
        return found.hints[number - 1] if 1 <= number <= len(found.hints) else f"no hint {number} for {id}"
    except Exception:
        return "no such hint"


def check(id: str, answer: object = None) -> Result:
    """Judge `answer` for exercise `id` and return a Result; never raises, never shows the right answer."""
    label = id if type(id) is str else f"<{type(id).__name__}>"  # any other str() may raise
    try:
        found = exercises().get(label)
        if found is None:
            return Result(label, UNKNOWN, _unknown())
        return _judge(found, answer)
    except Exception as error:
        return Result(label, NOT_YET, f"the check itself failed with {type(error).__name__}; please report it")


def _unknown() -> str:
    if _BROKEN:
        return "these chapters did not load: " + ", ".join(f"{m} ({e})" for m, e in sorted(_BROKEN.items()))
    return "ids look like 01.3: the chapter, a dot, the exercise"


def _judge(found: Exercise, answer: object) -> Result:
    if answer is None or blank(answer):
        return Result(found.id, NOT_ATTEMPTED)
    try:
        verdict = found.checker(answer)
        if type(verdict) is str:
            verdict = Wrong(verdict)
        elif type(verdict) is not Wrong:
            if verdict is None or bool(verdict):
                return Result(found.id, PASSED)
            verdict = Wrong("", 1)
        help = found.hints[verdict.hint - 1] if 0 < verdict.hint <= len(found.hints) else ""
        return Result(found.id, NOT_YET, verdict.message, help)
    except NotAttempted:
        return Result(found.id, NOT_ATTEMPTED)
    except Unfit as error:
        return Result(found.id, NOT_YET, str(error))
    except (Exception, SystemExit) as error:
        theirs = _in_answer(error.__traceback__, answer)
        if theirs and isinstance(error, NotImplementedError):
            return Result(found.id, NOT_ATTEMPTED)
        return Result(found.id, NOT_YET, _sentence(error, theirs, answer))


def _sentence(error: BaseException, theirs: bool, answer: object) -> str:
    # Texts of foreign exceptions may quote the expected value (assert_close does), so only the learner's own
    # exceptions, which cannot know it, are quoted.
    if not theirs:
        return f"an answer of type {type(answer).__name__} could not be judged ({type(error).__name__})"
    try:
        text = " ".join(str(error).split())[:120]
    except Exception:
        text = ""
    return f"your code raised {type(error).__name__}" + (f": {text}" if text else "")


def _in_answer(traceback: TracebackType | None, answer: object) -> bool:
    theirs = own_code(answer)
    while traceback is not None:
        if traceback.tb_frame.f_code in theirs:
            return True
        traceback = traceback.tb_next
    return False
