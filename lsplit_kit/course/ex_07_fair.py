"""Checks for chapter 07, continued: discriminant analysis, a fair split, the shuffled control, and the logit lens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lsplit_kit.course.calling import number
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.ex_07 import alike, ids_of, values_of
from lsplit_kit.course.tensors import draw


@exercise(
    "07.5",
    title="Prototypes and one covariance",
    hints=[
        "what is left when the prototype is taken off: rest = x - means[tokens]; shift = rest.mean(0)",
        "one covariance for all tokens: rest = rest - shift, cov = rest.T @ rest / len(rest)",
        "shrink: cov + penalty * cov.diagonal().mean() * torch.eye(d), so that it can be inverted",
        "with P = torch.linalg.solve(cov, means.T): scores = (h - shift) @ P - 0.5 * (means * P.T).sum(-1)",
    ],
    minutes=9,
    difficulty=4,
)
def lda(answer: object) -> str | Wrong | None:
    """lda(x, tokens, means, penalty): a function from vectors [m, d] to scores [m, V]."""
    means = 2 * draw(75, 7, 4)
    tokens = torch.arange(400) % 7
    x = means[tokens] + draw(76, 400, 4) @ (draw(77, 4, 4) + torch.eye(4)) + torch.tensor([3.0, -2.0, 1.0, 0.0])
    h = 2 * draw(78, 9, 4) + 1
    score: Any = call(answer, x.clone(), tokens.clone(), means.clone(), 0.1)
    if not callable(score):
        return f"a function from vectors to scores was expected, got {type(score).__name__}"
    found = values_of(call(score, h.clone()), (9, 7), "scores", 4)
    if isinstance(found, Wrong):
        return found

    def scores(rest: Tensor, penalty: Tensor | float, shift: Tensor, half: float = 0.5, unit: bool = False) -> Tensor:
        cov = torch.eye(4).double() if unit else rest.T @ rest / len(rest) + penalty * torch.eye(4).double()
        point = torch.linalg.solve(cov, means.double().T)
        return level((h.double() - shift) @ point - half * (means.double() * point.T).sum(-1))

    every, rest = x.double(), x.double() - means[tokens].double()
    shift, none = rest.mean(0), torch.zeros(4).double()
    rest = rest - shift
    size = (rest.T @ rest / len(rest)).diagonal().mean()
    right, found = scores(rest, 0.1 * size, shift), level(found)
    if alike(found, right, 0.01):
        return None
    spread = every - every.mean(0)
    raw = rest + shift
    for said, hint, wrong in (
        ("the scores have the wrong sign: the farthest prototype wins", 4, -right),
        ("long prototypes win: half of m' C^-1 m is not taken off", 4, scores(rest, 0.1 * size, shift, 0.0)),
        ("the last term is taken off twice", 4, scores(rest, 0.1 * size, shift, 1.0)),
        ("what all texts have in common is not taken off the vector that is read", 1, scores(rest, 0.1 * size, none)),
        ("what all texts have in common is in the covariance and in the vector that is read", 1,
         scores(raw, 0.1 * (raw.T @ raw / len(raw)).diagonal().mean(), none)),
        ("what all texts have in common is still in the covariance", 2,
         scores(raw, 0.1 * (raw.T @ raw / len(raw)).diagonal().mean(), shift)),
        ("the covariance is that of all vectors, differences between tokens included", 2,
         scores(spread, 0.1 * (spread.T @ spread / len(spread)).diagonal().mean(), shift)),
        ("every direction counts the same: there is no covariance", 2, scores(rest, 0.0, shift, unit=True)),
        ("the covariance is not shrunk", 3, scores(rest, 0.0, shift)),
        ("the penalty is the number itself, not a share of the variance", 3, scores(rest, 0.1, shift)),
    ):  # fmt: skip
        if alike(found, wrong, 0.01):
            return Wrong(said, hint)
    return Wrong("these are not the scores of the formula", 4)


def level(scores: Tensor) -> Tensor:
    """Scores without what is the same for all tokens of a row: that chooses nothing."""
    return scores - scores.mean(-1, keepdim=True)


@exercise(
    "07.6",
    title="A fair split",
    hints=[
        "draw among documents, not among tokens: names = document.unique()",
        "take round(share * len(names)) of them, at least one, in an order drawn with the seed",
        "torch.isin(document, chosen) is true at every token of a chosen document",
    ],
    minutes=4,
    difficulty=2,
)
def held_out(answer: object) -> str | Wrong | None:
    """held_out(document [n], share, seed): True at the tokens of whole documents that are kept for the test."""
    sizes = torch.tensor([3, 30, 8, 12, 1, 25, 7, 9, 16, 20])
    ordered = torch.arange(10).repeat_interleave(sizes) * 7
    mixed = ordered[torch.randperm(len(ordered), generator=torch.Generator().manual_seed(7))]
    drawn = []
    for document, share, seed in ((ordered, 0.3, 0), (mixed, 0.2, 1), (mixed, 0.2, 2), (mixed, 0.2, 3),
                                  (ordered, 0.01, 0)):  # fmt: skip
        try:
            mask = torch.as_tensor(call(answer, document.clone(), share, seed))  # type: ignore[call-overload]
        except (TypeError, ValueError, RuntimeError):
            return "a mask of True and False was expected"
        if mask.dtype is not torch.bool or mask.shape != document.shape:
            return Wrong(f"a mask [n] of True and False was expected, got {mask.dtype} of shape {tuple(mask.shape)}", 3)
        inside, outside = set(document[mask].tolist()), set(document[~mask].tolist())
        if both := inside & outside:
            return Wrong(f"{len(both)} of 10 documents have tokens on both sides: the test knows what was fitted", 1)
        wanted = max(1, round(10 * share))
        if len(inside) != wanted:
            if len(outside) == wanted:
                return Wrong("True is what is kept for the test, not what is fitted to", 3)
            return Wrong(f"{len(inside)} of 10 documents are kept for the test, for a share of {share:g}", 2)
        again = torch.as_tensor(call(answer, document.clone(), share, seed))  # type: ignore[call-overload]
        if not torch.equal(mask, again):
            return Wrong("the same seed gives another split the second time", 2)
        if document is mixed:
            drawn.append(frozenset(inside))
    if len(set(drawn)) == 1:
        return Wrong("three seeds give the same documents", 2)
    return None


class Fitter:
    """A `fit` for the checker: notes what it is fitted to, and reads what it has seen by heart."""

    def __init__(self) -> None:
        self.x, self.tokens = torch.empty(0, 2), torch.empty(0)

    def __call__(self, x: Tensor, tokens: Tensor) -> Callable[[Tensor], Tensor]:
        self.x, self.tokens = x.clone(), torch.as_tensor(tokens).clone()
        often = int(self.tokens.mode().values)
        known = {tuple(row): int(token) for row, token in zip(self.x.tolist(), self.tokens, strict=True)}
        return lambda vectors: torch.tensor([known.get(tuple(row), often) for row in vectors.tolist()])


@exercise(
    "07.7",
    title="The control that must fail",
    hints=[
        "first the split: fit_x, fit_tokens = x[~held], tokens[~held]; the held-out part is never shuffled",
        "shuffle the labels alone: fit_tokens[torch.randperm(len(fit_tokens), generator=...)]; each stays in use",
        "read = fit(fit_x, shuffled); then the share of read(x[held]) that equals the true tokens[held]",
    ],
    minutes=5,
    difficulty=3,
)
def control(answer: object) -> str | Wrong | None:
    """control(fit, x, tokens, held, seed): accuracy on held-out tokens of an attack fitted to shuffled labels."""
    tokens = torch.tensor([0] * 12 + list(range(1, 29)))[torch.randperm(40, generator=torch.Generator().manual_seed(5))]
    x = torch.stack([torch.arange(40.0), tokens.float()], 1)
    held = torch.arange(40) % 4 == 1
    fit = Fitter()
    found = number(call(answer, fit, x.clone(), tokens.clone(), held.clone(), 3))
    if found is None:
        return "a share from 0 to 1 was expected"
    if not len(fit.x):
        return Wrong("fit was never called", 3)
    rows = fit.x[:, 0].long()
    if bool(held[rows].any()):
        return Wrong("the held-out vectors were fitted to as well", 1)
    if len(rows) != int((~held).sum()):
        return Wrong(f"fitted to {len(rows)} vectors, and {int((~held).sum())} are not held out", 1)
    if not torch.equal(fit.tokens.sort().values, tokens[~held].sort().values):
        return Wrong("the labels that were fitted to are not the same ones in another order", 2)
    if float((fit.tokens == tokens[rows]).float().mean()) > 0.6:
        return Wrong("every vector still has its own label: nothing is shuffled, or both in the same way", 2)
    read = fit(fit.x, fit.tokens)
    right = float((read(x[held]) == tokens[held]).float().mean())
    if math.isclose(found, right, abs_tol=1e-6):
        again = Fitter()
        if not math.isclose(found, number(call(answer, again, x.clone(), tokens.clone(), held.clone(), 3)) or 0.0) or (
            not torch.equal(fit.tokens, again.tokens)
        ):
            return Wrong("the same seed shuffles in another way the second time", 2)
        return None
    if found > 0.99:
        return Wrong("it is read on the vectors it was fitted to: that is memory, whatever the labels are", 3)
    return Wrong("the accuracy is not that of the true labels of the held-out tokens", 3)


@exercise(
    "07.8",
    title="The logit lens",
    hints=[
        "as if no layer were missing: head(norm(vectors)) is [n, V], a score for every token",
        "argmax over the last axis: argmax(-1)",
        "the vector at position p says what comes next: the guess is about position p + 1",
    ],
    minutes=3,
    difficulty=2,
)
def lens(answer: object) -> str | Wrong | None:
    """lens(vectors [n, d], positions [n], norm, head): (guesses [n], positions [n] of the tokens guessed)."""
    vectors, positions = 3 * draw(81, 6, 5) + 1, torch.tensor([4, 5, 6, 9, 10, 11])
    table, weight = draw(82, 12, 5), draw(83, 5) * 2

    def norm(x: Tensor) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt() * weight

    def head(x: Tensor) -> Tensor:
        return x @ table.T

    value = call(answer, vectors.clone(), positions.clone(), norm, head)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return f"a pair (guesses, positions) was expected, got {type(value).__name__}"
    found, at = ids_of(value[0], 6, "guesses"), ids_of(value[1], 6, "positions")
    if isinstance(found, Wrong) or isinstance(at, Wrong):
        return found if isinstance(found, Wrong) else at  # type: ignore[return-value]
    right = head(norm(vectors)).argmax(-1)
    if not torch.equal(found, right):
        if torch.equal(found, head(vectors).argmax(-1)):
            return Wrong("the norm before the LM head is missing", 1)
        if torch.equal(found, norm(vectors).argmax(-1)):
            return Wrong("these are channels of the vector, not tokens: the LM head is missing", 1)
        return Wrong(f"{int((found == right).sum())} of 6 guesses are right", 1)
    if torch.equal(at, positions):
        return Wrong("the guess at a position is not about the token that stands there", 3)
    return None if torch.equal(at, positions + 1) else Wrong("the positions of the tokens guessed are not right", 3)
