"""Checks for chapter 07, inversion by probes: the control, what counts, the nearest row, and a ridge regression."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lsplit_kit.course.calling import number
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.tensors import draw


def values_of(value: object, shape: tuple[int, ...], what: str, hint: int = 1) -> Tensor | Wrong:
    """A learner's numbers as a float64 tensor of a shape, from lists and arrays too, or what is wrong with them."""
    try:
        found = torch.as_tensor(value).double()
    except Exception:
        return Wrong(f"{what} of shape {shape} expected, got {type(value).__name__}")
    if tuple(found.shape) != shape:
        return Wrong(f"{what} of shape {shape} expected, got the shape {tuple(found.shape)}", hint)
    return found


def ids_of(value: object, count: int, what: str = "token ids") -> Tensor | Wrong:
    """A learner's whole numbers [count] as a tensor, or what is wrong with them."""
    try:
        found = torch.as_tensor(value)
    except Exception:
        return Wrong(f"{what} were expected, got {type(value).__name__}")
    if found.is_floating_point() or found.is_complex() or found.dtype is torch.bool:
        return Wrong(f"{what} are whole numbers, got values of {found.dtype}")
    if tuple(found.shape) != (count,):
        return Wrong(f"{what} of shape ({count},) were expected, got the shape {tuple(found.shape)}", 1)
    return found.long()


def alike(a: Tensor, b: Tensor, share: float = 1e-3) -> bool:
    """Whether two tensors of one shape differ by less than a share of the second one's size."""
    return a.shape == b.shape and bool((a - b).norm() <= share * b.norm().clamp_min(1e-9))


@exercise(
    "07.1",
    title="What can be guessed without the wire",
    hints=[
        "add `more` to every count, also to those that are 0: what was never seen is not impossible",
        "torch.bincount(tokens, minlength=vocabulary): one count for each token that exists",
        "divide by the sum of what you have after adding, then take the natural logarithm",
    ],
    minutes=3,
    difficulty=1,
)
def prior(answer: object) -> str | Wrong | None:
    """log_prior(tokens [n], vocabulary, more): log probabilities [V] of tokens by how often they occur."""
    for tokens, vocabulary, more in (([2, 2, 5, 2, 0], 8, 0.1), ([1, 1, 3, 0, 3, 3], 6, 1.0)):
        given = torch.tensor(tokens)
        found = values_of(call(answer, given.clone(), vocabulary, more), (vocabulary,), "log probabilities", 2)
        if isinstance(found, Wrong):
            return found
        counts = torch.bincount(given, minlength=vocabulary).double()
        right = ((counts + more) / (counts + more).sum()).log()
        if alike(found, right):
            continue
        if found.isinf().any():
            return Wrong("a token that was not seen has probability 0: one such token, and the attacker is lost", 1)
        if bool((found >= 0).all()) and abs(float(found.sum()) - 1) < 1e-3:
            return Wrong("these are probabilities, their logarithms were asked for", 3)
        if alike(found, right / math.log(2)) or alike(found, right / math.log(10)):
            return Wrong("the logarithm has another base than e", 3)
        total = float(found.exp().sum())
        if abs(total - 1) > 1e-3:
            return Wrong(f"the probabilities sum to {total:.3g}, not to 1", 3)
        return Wrong(f"{more:g} more for each of {vocabulary} tokens gives other probabilities", 1)
    return None


@exercise(
    "07.2",
    title="What counts",
    hints=[
        "two masks: kind == 'prompt' or 'reply' says what counts at all, position == 0 says which of it stands apart",
        "the template is the same for everybody: whoever 'reads' it has read nothing, at no position",
        "the first position is no part of the first number, but a number of its own; None where there is none",
    ],
    minutes=4,
    difficulty=2,
)
def accuracy(answer: object) -> str | Wrong | None:
    """accuracy(right, position, kind): (share of right tokens that count, the same of position 0 or None)."""
    long = (["template"] * 3 + ["prompt"] * 4 + ["template"] * 2 + ["reply"] * 3) * 2
    bare = (["prompt"] * 4 + ["reply"] * 2) * 2
    for kind, spans, hits in ((long, 12, "111010011100111100011110"), (bare, 6, "011110111010")):
        position = torch.tensor([p % spans for p in range(len(kind))])
        right = torch.tensor([hit == "1" for hit in hits])
        value = call(answer, right.clone(), position.clone(), list(kind))
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            return f"two numbers (counted, first) were expected, got {type(value).__name__}"
        found, first = number(value[0]), None if value[1] is None else number(value[1])
        if found is None:
            return f"counted: a number was expected, got {type(value[0]).__name__}"
        words, start = torch.tensor([k != "template" for k in kind]), position == 0
        here = f"in a text {'with' if kind is long else 'without'} a template"
        of = {name: float(right[mask].float().mean()) for name, mask in
              {"counted": words & ~start, "all": words | ~words, "start": words, "behind": ~start}.items()}  # fmt: skip
        if not math.isclose(found, of["counted"], abs_tol=1e-6):
            if kind is long and any(math.isclose(found, of[name], abs_tol=1e-6) for name in ("all", "behind")):
                return Wrong(f"tokens of the template are counted, {here}", 2)
            if math.isclose(found, of["start"], abs_tol=1e-6):
                return Wrong(f"position 0 is counted with the others, {here}", 3)
            if math.isclose(found, 100 * of["counted"], abs_tol=1e-4):
                return Wrong("a share from 0 to 1 was asked for, not per cent", 1)
            return Wrong(f"counted: too {'many' if found > of['counted'] else 'few'} right, {here}", 1)
        none = first is None or math.isnan(first)
        if kind is long and not none:
            return Wrong(f"first: position 0 is one of the template there, {here}", 2)
        if kind is bare and (none or not math.isclose(first or 0.0, 0.5)):
            return Wrong(f"first: half of the tokens at position 0 are right, {here}", 3)
    return None


@exercise(
    "07.3",
    title="The nearest row",
    hints=[
        "a cosine is the product of two vectors divided by both lengths: x / x.norm(dim=-1, keepdim=True)",
        "vectors of length 1 on both sides, then vectors @ rows.T is [n, V] and argmax(-1) the best row of each",
    ],
    minutes=3,
    difficulty=1,
)
def nearest(answer: object) -> str | Wrong | None:
    """nearest(vectors [n, d], rows [V, d]): the row of most alike direction for each vector, ids [n]."""
    rows = draw(71, 40, 8) * torch.linspace(0.2, 5, 40)[:, None]
    truth = torch.tensor([0, 3, 17, 39, 3, 8, 21, 1, 5])
    vectors = 2 * rows[truth] / rows[truth].norm(dim=-1, keepdim=True) + 0.05 * draw(72, 9, 8)
    found = ids_of(call(answer, vectors.clone(), rows.clone()), len(truth))
    if isinstance(found, Wrong):
        return found
    if torch.equal(found, truth):
        return None
    sizes = rows.norm(dim=-1)
    for said, hint, wrong in (
        ("long rows win: their direction may be another one", 1, (vectors @ rows.T).argmax(-1)),
        ("the distance also asks for the same length, and layers change lengths", 1,
         torch.cdist(vectors, rows).argmin(-1)),
        ("that is the row of least alike direction", 2, (vectors @ rows.T / sizes).argmin(-1)),
    ):  # fmt: skip
        if torch.equal(found, wrong):
            return Wrong(said, hint)
    return Wrong(f"{int((found == truth).sum())} of {len(truth)} rows are right", 2)


@exercise(
    "07.4",
    title="A ridge regression in closed form",
    hints=[
        "take the means off first: X = x - x.mean(0), Y = y - y.mean(0)",
        "gram = X.T @ X, then gram + penalty * gram.diagonal().mean() * torch.eye(d): a share of the data's own size",
        "weight = torch.linalg.solve(gram, X.T @ Y), [d, e]",
        "what the means took away comes back in the bias: bias = y.mean(0) - x.mean(0) @ weight",
    ],
    minutes=7,
    difficulty=3,
)
def ridge(answer: object) -> str | Wrong | None:
    """ridge(x [n, d], y [n, e], penalty): (weight [d, e], bias [e]) of least squared error plus penalty."""
    for seed, penalty, scale in ((73, 1e-1, 1.0), (74, 1e-2, 20.0)):
        x = scale * (draw(seed, 60, 5) * torch.tensor([3.0, 1.0, 1.0, 0.5, 2.0]) + 2)
        y = x @ draw(seed + 10, 5, 3) / scale + 1 + 0.3 * draw(seed + 20, 60, 3)
        value = call(answer, x.clone(), y.clone(), penalty)
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            return f"a pair (weight, bias) was expected, got {type(value).__name__}"
        weight = values_of(value[0], (5, 3), "weight", 3)
        bias = weight if isinstance(weight, Wrong) else values_of(value[1], (3,), "bias", 4)
        if isinstance(weight, Wrong) or isinstance(bias, Wrong):
            return weight if isinstance(weight, Wrong) else bias  # type: ignore[return-value]
        if (fault := _ridge(weight, bias, x.double(), y.double(), penalty)) is not None:
            return fault
    return None


def solved(x: Tensor, y: Tensor, more: Tensor | float) -> Tensor:
    """The weights of x @ w = y with `more` added to the Gram matrix's diagonal."""
    gram = x.T @ x
    return torch.linalg.solve(gram + torch.diag(torch.zeros(len(gram)).double() + more), x.T @ y)


def _ridge(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, penalty: float) -> Wrong | None:
    a, b = x - x.mean(0), y - y.mean(0)
    size = float((a * a).sum(0).mean())
    right = solved(a, b, penalty * size)
    if alike(weight, right):
        if alike(bias, y.mean(0) - x.mean(0) @ right):
            return None
        return Wrong("the weight is right, the bias is not: the fit does not go through the means", 4)
    ones = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    raw = float((x * x).sum(0).mean())
    for said, hint, wrong in (
        ("nothing is taken off: the fit has to go through the origin", 1, solved(x, y, penalty * raw)),
        ("nothing is taken off: the fit has to go through the origin", 1, solved(x, y, penalty)),
        ("the means of x are not taken off", 1, solved(x, b, penalty * raw)),
        ("there is no penalty", 2, solved(a, b, 0.0)),
        ("the penalty is the number itself: for larger vectors it would be another attack", 2, solved(a, b, penalty)),
        ("the penalty is the number itself, times how many pairs there are", 2, solved(a, b, penalty * len(x))),
        ("the bias is punished like the weights: take the means off in its place", 1, solved(ones, y, penalty)[:5]),
    ):
        if alike(weight, wrong):
            return Wrong(said, hint)
    return Wrong("these are not the weights of least squared error plus penalty", 3)
