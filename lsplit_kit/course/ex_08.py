"""Checks for chapter 08, exact inversion: causality, candidates behind a prefix, many in one pass, and a decision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsplit_kit.course.calling import whole
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.ex_07 import alike, ids_of, values_of
from lsplit_kit.course.tensors import draw

WIDTH = 6


class Head:
    """A head for the checker, ids [B, T] -> vectors [B, T, 6]; counts its calls and the tokens that it ran.

    reach: how many positions before its own a vector depends on; noise: relative, another one at each call.
    """

    def __init__(self, reach: int = 99, vocabulary: int = 60, both: bool = False, noise: float = 0.0) -> None:
        self.table, self.reach, self.both, self.noise = draw(91, vocabulary, WIDTH), reach, both, noise
        self.calls = self.ran = 0

    def __call__(self, ids: Tensor) -> Tensor:
        self.calls, self.ran = self.calls + 1, self.ran + ids.numel()
        rows, at = self.table[ids], torch.arange(ids.shape[1])
        back = at[:, None] - at
        seen = (back.abs() <= self.reach) if self.both else (back >= 0) & (back <= self.reach)
        mixed = rows + torch.einsum("ts,bsd->btd", seen * 0.7 ** back.abs(), rows.roll(1, -1))
        found = mixed + mixed.tanh()
        return found * (1 + self.noise * draw(self.calls, *found.shape))


@exercise(
    "08.1",
    title="What depends on what",
    hints=[
        "run both rows: ids as it is, and a clone in which position t holds `other`; the first must stay as it was",
        "compare position by position: (a - b).norm(dim=-1) against a.norm(dim=-1)",
        "two runs may differ in the last bits: call it a change from 1e-4 of the vector's length on",
    ],
    minutes=4,
    difficulty=2,
)
def changed(answer: object) -> str | Wrong | None:
    """changed(head, ids [T], t, other): a mask [T] of the positions whose vector is another one then."""
    ids = torch.tensor([4, 8, 15, 16, 23, 42, 7])
    for head, t, low, high in ((Head(), 3, 3, 6), (Head(), 0, 0, 6), (Head(reach=2), 2, 2, 4),
                               (Head(both=True, reach=1), 3, 2, 4), (Head(noise=1e-6), 5, 5, 6)):  # fmt: skip
        given = ids.clone()
        try:
            mask = torch.as_tensor(call(answer, head, given, t, 9))  # type: ignore[call-overload]
        except (TypeError, ValueError, RuntimeError):
            return "a mask of True and False was expected"
        if not torch.equal(given, ids):
            return Wrong("your function changed the ids that it was given", 1)
        if mask.dtype is not torch.bool or mask.shape != ids.shape:
            return Wrong(f"a mask [T] of True and False was expected, got {mask.dtype} of shape {tuple(mask.shape)}", 2)
        right = torch.tensor([low <= p <= high for p in range(len(ids))])
        if torch.equal(mask, right):
            continue
        here = f"with another token at position {t} of 0 to 6"
        if torch.equal(mask, ~right):
            return Wrong(f"True is where something changes, {here}", 2)
        if head.noise and mask.all():
            return Wrong("differences in the last bits are called changes", 3)
        missed = right & ~mask
        where = int((missed if missed.any() else mask & ~right).nonzero()[0])
        return Wrong(f"position {where} {'changes' if missed.any() else 'does not change'}, {here}", 2)
    return None


@exercise(
    "08.2",
    title="Try tokens behind a text",
    hints=[
        "one row for each candidate: the prefix again and again, the candidate at its end; [C, t + 1]",
        "torch.cat([prefix.expand(len(candidates), -1), candidates[:, None]], dim=1), and one call of head",
        "what is asked for is the vector of the last position: [:, -1]",
    ],
    minutes=4,
    difficulty=2,
)
def tried(answer: object) -> str | Wrong | None:
    """tried(head, prefix [t], candidates [C]): the vectors [C, d] that each candidate has as the next token."""
    for prefix, candidates in ((torch.tensor([3, 1, 4]), torch.tensor([5, 9, 2, 6, 3])),
                               (torch.empty(0, dtype=torch.long), torch.tensor([7, 0, 59]))):  # fmt: skip
        head, count = Head(), len(candidates)
        value = call(answer, head, prefix.clone(), candidates.clone())
        calls = head.calls
        found = values_of(value, (count, WIDTH), "vectors", 3)
        if isinstance(found, Wrong):
            return found
        rows = torch.cat([prefix.expand(count, -1), candidates[:, None]], 1)
        states, start = head(rows).double(), f"behind {len(prefix)} tokens"
        if alike(found, states[:, -1]):
            if calls != 1:
                return Wrong(f"head was called {calls} times for {count} candidates: one batch holds them all", 2)
            continue
        for said, hint, wrong in (
            ("that is the vector of the first position, not of the candidate", 3, states[:, 0]),
            ("the candidates run without the text before them", 1, head(candidates[:, None])[:, -1].double()),
            ("the candidates stand before the text, not behind it", 1, head(rows.roll(1, 1))[:, -1].double()),
            ("the candidates follow each other, as one text", 1,
             head(torch.cat([prefix, candidates])[None])[0, len(prefix) :].double()),
        ):  # fmt: skip
            if alike(found, wrong):
                return Wrong(f"{said}, {start}", hint)
        return Wrong(f"other vectors than the candidates have {start}", 1)
    return None


@exercise(
    "08.3",
    title="Many candidates, one prefix",
    hints=[
        "every candidate looks at the whole prefix: torch.ones(count, prefix, dtype=torch.bool)",
        "of the candidates it sees itself alone: torch.eye(count, dtype=torch.bool)",
        "all of them are tried at the same place, the one right behind the prefix",
    ],
    minutes=4,
    difficulty=3,
)
def shared(answer: object) -> str | Wrong | None:
    """shared(prefix, count): (mask [count, prefix + count] of who looks at whom, positions [count])."""
    for prefix, count in ((5, 3), (2, 4), (0, 3)):
        value: Any = call(answer, prefix, count)
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            return f"a pair (mask, positions) was expected, got {type(value).__name__}"
        try:
            mask = torch.as_tensor(value[0])
        except (TypeError, ValueError, RuntimeError):
            return f"a mask was expected, got {type(value[0]).__name__}"
        if mask.is_floating_point():  # as libraries add it: 0 where one looks
            mask = mask == 0
        here = f"{count} candidates behind {prefix} tokens"
        if mask.shape != (count, prefix + count):
            return Wrong(f"a mask of shape {(count, prefix + count)} was expected, got {tuple(mask.shape)}: {here}", 1)
        mask, own = mask.bool(), torch.eye(count, dtype=torch.bool)
        if not mask[:, :prefix].all():
            return Wrong(f"some candidate does not see all of the text before it: {here}", 1)
        if not mask[:, prefix:].diagonal().all():
            return Wrong(f"a candidate does not see itself: {here}", 2)
        if (mask[:, prefix:] & ~own).any():
            return Wrong(f"candidates see each other, as if they were one text: {here}", 2)
        at = ids_of(value[1], count, "positions")
        if isinstance(at, Wrong):
            return at
        if not bool((at == prefix).all()):
            return Wrong(f"not all positions are the one right behind the text: {here}", 3)
    return None


@exercise(
    "08.4",
    title="Found, or not",
    hints=[
        "best = away.argmin(); below the threshold it may be the token, else it is none of these: -1",
        "the runner-up is the nearest of the others; away[best] times margin must still be less than it",
        "a token that stands in the list twice is not its own runner-up: leave out all with ids == ids[best]",
        "with no other token in the list there is no runner-up, and the threshold decides alone",
    ],
    minutes=5,
    difficulty=3,
)
def decide(answer: object) -> str | Wrong | None:
    """decide(ids [n], away [n], threshold, margin): the id that is found, or -1."""
    for ids, away, right, what, hint in (
        ([7, 3, 9], [0.4, 1e-9, 0.2], 3, "one is near and the others are far", 1),
        ([7, 3, 9], [0.4, 0.3, 0.2], -1, "the nearest is above the threshold: none of them is it", 1),
        ([7, 3, 9], [5e-5, 0.3, 8e-5], -1, "two are near: the list does not say which one it is", 2),
        ([7, 3, 9, 3], [0.4, 1e-9, 0.2, 1e-9], 3, "the nearest token stands in the list twice", 3),
        ([7, 3, 3, 9], [6e-5, 2e-5, 2e-5, 0.3], -1, "the nearest stands there twice, and another one is near", 3),
        ([12], [1e-9], 12, "there is one token only", 4),
        ([5, 5], [1e-9, 1e-9], 5, "there is one token only, twice", 4),
        ([12], [0.4], -1, "there is one token only, and it is far", 1),
        ([4, 8], [0.0, 0.0], -1, "two tokens are at distance 0", 2),
    ):
        value = call(answer, torch.tensor(ids), torch.tensor(away), 1e-4, 10.0)
        found = whole(value)
        if found is None:
            return f"a token id or -1 was expected, got {type(value).__name__}"
        if found == right:
            continue
        if found not in (-1, *ids):
            extra = ": that is a place in the list" if found < len(ids) else ""
            return Wrong(f"{found} is no id of the list{extra}; {what}", 1)
        return Wrong(f"{'nothing was found' if found == -1 else f'{found} was found'}, but {what}", hint)
    return None
