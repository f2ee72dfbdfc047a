"""Checks for chapter 02, continued: a host's memory, rollback, and the local side's replay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsplit_kit.course.calling import NotAttempted, Unfit, blank, fit, idle
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.own_host import own_host
from lsplit_kit.course.tensors import draw, near, tensor_of
from lsplit_kit.errors import CacheMiss

WIDTH, NEW = 8, 14


class _Body:
    """A stand-in for the body: the output at a position depends on all positions up to it; it counts its calls."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, hidden: Tensor) -> Tensor:
        if not isinstance(hidden, Tensor) or hidden.dim() != 3:
            raise Unfit("the body was called with something else than hidden vectors [1, T, d]")
        self.seen.append(hidden.shape[1])
        return self.right(hidden)

    @staticmethod
    def right(hidden: Tensor) -> Tensor:
        """What the outputs are."""
        weights = torch.arange(1, hidden.shape[1] + 1)[:, None]
        return (hidden * weights).cumsum(1) + hidden.roll(1, dims=2)


def _tokens(make: Any) -> tuple[Tensor, Tensor]:
    """What the toy generates unsplit, and with a host of one's own."""
    from lsplit_kit.models.load import load

    model = load("toy-llama")[0]
    ids, options = torch.arange(5, 14)[None], {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    return model.generate(ids, **options), own_host(model, make).generate(ids, **options)


@exercise(
    "02.2",
    title="A host that remembers hidden vectors",
    hints=[
        "torch.cat([history, new], dim=1) puts the new vectors behind the old; at the first step there is no history",
        "the body needs all vectors, every time: attention looks back, and no keys and values were kept",
        "body(history) has an output for every position; only those of the new ones go down: [:, -n:]",
    ],
    minutes=7,
    difficulty=3,
)
def hidden_step(answer: object) -> str | Wrong | None:
    """hidden_step(history, new, body): (history with the new vectors, outputs of the new ones)."""
    vectors, history, body = draw(20, 1, 9, WIDTH), None, _Body()
    for start, stop in ((0, 4), (4, 5), (5, 8), (8, 9)):
        body.seen.clear()
        made = call(answer, history, vectors[:, start:stop].clone(), body)
        if not isinstance(made, (tuple, list)) or len(made) != 2:
            return f"a pair (history, out) was expected, got {type(made).__name__}"
        kept = tensor_of(made[0], (1, stop, WIDTH), "the history")
        if isinstance(kept, Wrong):
            return Wrong(kept.message, 1)
        if not torch.equal(kept, vectors[:, :stop]):
            return Wrong("the history does not hold what came up, in the order in which it came", 1)
        out = tensor_of(made[1], (1, stop - start, WIDTH), "out")
        if isinstance(out, Wrong):
            return Wrong(out.message, 3)
        if stop not in body.seen:
            return Wrong(f"the body passed over {max(body.seen, default=0)} of {stop} positions", 2)
        if not near(out, _Body.right(vectors[:, :stop])[:, start:]):
            return Wrong("these are not the body's outputs for the new positions", 3)
        history = kept

    class Adapter:
        def __init__(self, body: Any) -> None:
            self.body, self.history = body, None

        def step(self, start: int, new: Tensor) -> Tensor:
            self.history, out = answer(self.history, new, self.body)  # type: ignore[operator]
            return out

    whole, ours = _tokens(Adapter)
    return None if torch.equal(whole, ours) else "with your host the toy writes other tokens than the unsplit model"


def _step(host: Any, start: int, new: Tensor) -> Tensor | Wrong:
    """One step of a learner's host."""
    step = getattr(host, "step", None)
    if step is None:
        raise Unfit("the host has no method step(start, new)")
    fit(step, start, new)
    made = step(start, new.clone())
    if blank(made) or (made is None and idle(step.__func__ if hasattr(step, "__func__") else step)):
        raise NotAttempted
    return tensor_of(made, tuple(new.shape), "what step returns")


@exercise(
    "02.5",
    title="Rollback: start below what it has",
    hints=[
        "what stands before start is still true: self.history[:, :start]; with start 0 nothing is left",
        'start above what is remembered: raise CacheMiss("...", have=...) before the memory is touched',
        "then as in 02.2: append, run the body over all, return the outputs of the new positions",
    ],
    minutes=8,
    difficulty=4,
)
def host(answer: object) -> str | Wrong | None:
    """The class Host(body) with step(start, new): crop to start, append, run, answer; CacheMiss above what it has."""
    body, vectors, other = _Body(), draw(21, 1, 12, WIDTH), draw(22, 1, 12, WIDTH)
    made: Any = call(answer, body)
    if type(made) is type:
        return "calling your class must build a host"
    # What the host should remember, and the steps: start, new vectors, and what such a step is.
    true = vectors[:, :0]
    for start, new, what in (
        (0, vectors[:, :5], "the prefill"), (5, vectors[:, 5:6], "a token"),
        (6, vectors[:, 6:11], "a token and guesses"),
        (8, other[:, :1], "a step below what it has"), (8, other[:, :1], "the same step again"),
        (9, other[:, 1:3], "the step after it"), (0, other[:, :3], "a new prompt, from 0"),
    ):  # fmt: skip
        true = torch.cat([true[:, :start], new], dim=1)
        out = _step(made, start, new)
        if isinstance(out, Wrong):
            return Wrong(f"{what}: {out.message}", 3)
        if near(out, _Body.right(true)[:, start:]):
            continue
        again = what not in ("the prefill", "a token", "a token and guesses")
        if again:
            return Wrong(f"{what}: the answer still depends on positions from {start} on that were taken back", 1)
        return Wrong(f"{what}: these are not the body's outputs for the new positions", 3)
    return _missed(made, body, true, other) or _generated(answer)


def _missed(made: Any, body: _Body, true: Tensor, other: Tensor) -> str | Wrong | None:
    """A step above what the host has."""
    have = true.shape[1]
    try:
        _step(made, have + 2, other[:, 5:6])
    except CacheMiss as miss:
        if miss.have != have:
            return Wrong(f"CacheMiss says have={miss.have}; the host remembers {have} positions", 2)
    except NotAttempted:
        raise
    except Exception as error:
        return Wrong(f"a step above what it has raised {type(error).__name__}; CacheMiss was expected", 2)
    else:
        return Wrong(f"the host has {have} positions and took a step that starts at {have + 2}", 2)
    try:
        out = _step(made, have, other[:, 5:6])
    except CacheMiss:
        out = Wrong("")
    if isinstance(out, Wrong) or not near(out, _Body.right(torch.cat([true, other[:, 5:6]], 1))[:, have:]):
        return Wrong("after the CacheMiss the memory is not what it was before", 2)
    return None


def _generated(answer: object) -> str | None:
    whole, ours = _tokens(answer)
    return None if torch.equal(whole, ours) else "with your host the toy writes other tokens than the unsplit model"


class _Forgetful:
    """A host of the checker's that has `have` positions; it writes down what crosses."""

    def __init__(self, history: Tensor) -> None:
        self.history, self.taken = history, list[tuple[int, int]]()

    def step(self, start: int, new: Tensor) -> Tensor:
        """As 02.5 asks."""
        if start > self.history.shape[1]:
            raise CacheMiss("I remember less.", have=self.history.shape[1])
        self.taken.append((start, new.shape[1]))
        self.history = torch.cat([self.history[:, :start], new], dim=1)
        return _Body.right(self.history)[:, start:]


@exercise(
    "02.6",
    title="Replay: start above what it has",
    hints=[
        "try host.step(sent, history[:, sent:]) first: as a rule the host has everything that was sent",
        "except CacheMiss as miss: send again from miss.have on, history[:, miss.have:]",
        "a replay answers for old positions too; the new ones are the last: [:, -n:], n = positions that are new",
    ],
    minutes=6,
    difficulty=3,
)
def deliver(answer: object) -> str | Wrong | None:
    """deliver(history, sent, host): the outputs of positions sent, sent + 1, ..., whatever the host has forgotten."""
    history = draw(23, 1, 10, WIDTH)
    for have, sent in ((7, 7), (0, 0), (9, 9), (0, 8), (4, 9), (0, 9)):
        theirs = _Forgetful(history[:, :have])
        made = tensor_of(call(answer, history.clone(), sent, theirs), (1, 10 - sent, WIDTH), "what deliver returns")
        what = f"{sent} of 10 positions were sent, the host remembers {have}"
        if isinstance(made, Wrong):
            return Wrong(f"{what}: {made.message}", 3)
        crossed, least = sum(count for _, count in theirs.taken), 10 - min(have, sent)
        if not near(made, _Body.right(history)[:, sent:]):
            return Wrong(f"{what}: these are not the outputs of the positions that are new", 3)
        if crossed > least:
            return Wrong(f"{what}: {crossed} vectors crossed, {least} are enough", 1 if have >= sent else 2)
    return None
