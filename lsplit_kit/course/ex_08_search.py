"""Checks for chapter 08, continued: the whole search, noise, cost, the place of the cut, and what may be said."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lsplit_kit.course.calling import number, whole
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.ex_07 import alike, ids_of, values_of
from lsplit_kit.course.ex_07_fair import level
from lsplit_kit.course.ex_08 import Head
from lsplit_kit.course.tensors import draw

VOCABULARY = 60


class Trial:
    """`tried` and `order` for the checker; notes every prefix that was asked about, and how many candidates ran."""

    def __init__(self, text: list[int], ranks: list[int]) -> None:
        self.head, self.text, self.ranks = Head(vocabulary=VOCABULARY), text, ranks
        self.prefixes: list[list[int]] = []
        self.ran = 0

    def tried(self, prefix: Any, candidates: Any) -> Tensor:
        """Vectors [C, d] of candidates [C] behind a prefix [t]."""
        before, ids = torch.as_tensor(prefix).long().flatten(), torch.as_tensor(candidates).long().flatten()
        self.prefixes.append(before.tolist())
        self.ran += len(ids)
        return self.head(torch.cat([before.expand(len(ids), -1), ids[:, None]], 1))[:, -1]

    def order(self, prefix: Any) -> Tensor:
        """All ids [V]: the true token behind a true prefix stands at its rank (from 1)."""
        t = min(len(prefix), len(self.text) - 1)
        ids = [i for i in range(VOCABULARY) if i != self.text[t]]
        ids.insert(self.ranks[t] - 1, self.text[t])
        return torch.tensor(ids)


def run(ranks: list[int], widths: tuple[int, ...]) -> int:
    """Candidates that are tried when the true token stands at these ranks (from 1)."""
    return sum(min(width for width in widths if width >= rank) for rank in ranks)


@exercise(
    "08.5",
    title="The search",
    hints=[
        "for each vector: ids = order(prefix); for each width: try ids[done:width], then done = width",
        "away = (vectors - h).square().sum(-1) / h.square().sum(); keep what was tried, with its distance",
        "stop at the first width at which the nearest of all tried is below the threshold",
        "whatever is nearest goes to the end of the prefix: the next position depends on it",
    ],
    minutes=10,
    difficulty=4,
)
def match(answer: object) -> str | Wrong | None:
    """match(vectors [T, d], known [t], tried, order, widths, threshold): (ids [T], candidates tried)."""
    text, widths = [11, 7, 30, 7, 52, 19, 3, 44], (4, 16, VOCABULARY)
    ranks = [1, 1, 3, 4, 9, 60, 17, 16]
    for known, noise in ((2, 0.0), (0, 0.0), (3, 0.05)):
        trial = Trial(text, ranks)
        vectors = trial.head(torch.tensor(text)[None])[0, known:]
        vectors = vectors + noise * draw(95, *vectors.shape)
        given = torch.tensor(text[:known], dtype=torch.long)
        value = call(answer, vectors.clone(), given.clone(), trial.tried, trial.order, widths, 1e-6)
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            return f"a pair (ids, candidates tried) was expected, got {type(value).__name__}"
        found, ran = ids_of(value[0], len(text) - known), whole(value[1])
        if isinstance(found, Wrong):
            if torch.as_tensor(value[0]).numel() == len(text):
                return Wrong("the known tokens were asked for as well: return those of the vectors only", 4)
            return found
        if ran is None:
            return f"candidates tried: a whole number was expected, got {type(value[1]).__name__}"
        if (fault := _searched(found.tolist(), ran, trial, known, widths, noise)) is not None:
            return fault
    return None


def _searched(found: list[int], ran: int, trial: Trial, known: int, widths: tuple[int, ...], noise: float) -> Any:
    text, ranks = trial.text[known:], trial.ranks[known:]
    here = f"behind {known} known tokens" + (", on a wire with a little noise" if noise else "")
    if found != text:
        if len({tuple(p) for p in trial.prefixes}) == 1:
            return Wrong(f"every position was searched behind the same text, {here}", 4)
        at = next(i for i, (a, b) in enumerate(zip(found, text, strict=True)) if a != b)
        if noise:
            return Wrong(f"where nothing is below the threshold the nearest of all is taken, {here}", 3)
        if ranks[at] > widths[0] and trial.ran <= widths[0] * len(text):
            return Wrong(f"a token was not among the first {widths[0]}, and no more were tried, {here}", 1)
        return Wrong(f"{sum(a == b for a, b in zip(found, text, strict=True))} of {len(text)} tokens are right", 2)
    right = len(text) * widths[-1] if noise else run(ranks, widths)
    if trial.ran > right:
        if trial.ran == len(text) * widths[-1]:
            return Wrong(f"the whole vocabulary was tried at every position, {here}", 3)
        return Wrong(f"{trial.ran} candidates ran and {right} are enough: do not try again what was tried, {here}", 1)
    if trial.ran < right:
        return Wrong(f"{trial.ran} candidates ran, fewer than the widths say, {here}", 1)
    return None if ran == right else Wrong(f"{trial.ran} candidates ran, and you say {ran}, {here}", 1)


@exercise(
    "08.6",
    title="A noisy wire",
    hints=[
        "Gaussian noise: log p(h | token) is minus the squared distance over 2 sigma ** 2, but for a constant",
        "the squared distance is the sum over channels: (vectors - h).square().sum(-1)",
        "posterior = prior times likelihood; of logarithms it is the sum",
    ],
    minutes=4,
    difficulty=3,
)
def belief(answer: object) -> str | Wrong | None:
    """belief(vectors [C, d], h [d], log_prior [C], sigma): log posterior [C] but for a constant."""
    for sigma in (0.7, 3.0):
        vectors, log_prior = draw(96, 8, 5), draw(97, 8).mul(2).log_softmax(-1)
        h = vectors[3] + sigma * draw(98, 5)
        found = values_of(call(answer, vectors.clone(), h.clone(), log_prior.clone(), sigma), (8,), "scores")
        if isinstance(found, Wrong):
            return found
        away = (vectors - h).double().square().sum(-1)
        prior, fit, found = log_prior.double(), away / (2 * sigma**2), level(found)
        if alike(found, level(prior - fit)):
            continue
        for said, hint, wrong in (
            ("the prior is missing: of two that fit alike, the likelier one is meant", 3, -fit),
            ("the vector is not looked at", 1, prior),
            ("far ones are believed more than near ones", 1, prior + fit),
            ("the prior is a logarithm already, and is added as it is", 3, prior.exp() - fit),
            ("the logarithm of the prior is taken off", 3, -prior - fit),
            ("the 2 of 2 sigma ** 2 is missing", 1, prior - 2 * fit),
            ("sigma is not squared", 1, prior - away / (2 * sigma)),
            ("sigma is missing: near and far are measured against the noise", 1, prior - away / 2),
            ("sigma is missing: near and far are measured against the noise", 1, prior - away),
            ("the distance is not squared", 2, prior - away.sqrt() / (2 * sigma**2)),
            ("the squares are averaged over the channels, and are to be added", 2, prior - fit / 5),
        ):
            if alike(found, level(wrong)):
                return Wrong(f"{said}, for sigma = {sigma:g}", hint)
        return Wrong(f"not log prior minus squared distance over 2 sigma ** 2, for sigma = {sigma:g}", 1)
    return None


@exercise(
    "08.7",
    title="What it costs",
    hints=[
        "a position costs the first width that its rank fits into: a rank of 8 fits into 8, one of 9 does not",
        "a width says how many have been tried by then, all together: they are not added up",
        "behind the last width comes the whole vocabulary",
    ],
    minutes=4,
    difficulty=2,
)
def cost(answer: object) -> str | Wrong | None:
    """cost(ranks, widths, vocabulary): candidates that are run in all; ranks of the true tokens count from 1."""
    for ranks, widths, vocabulary in (([1, 8, 3], (8, 64), 500), ([9, 64, 2], (8, 64), 500), ([70, 1], (8, 64), 500),
                                      ([1, 1, 4096, 4097, 12], (16, 256, 4096), 49152)):  # fmt: skip
        value = call(answer, list(ranks), widths, vocabulary)
        found = number(value)
        if found is None:
            return f"a number of candidates was expected, got {type(value).__name__}"
        steps = (*widths, vocabulary)
        right = run(ranks, steps)
        if found == right:
            continue
        here = f"for ranks {ranks}, widths {widths} and {vocabulary:,} tokens"
        added = sum(sum(steps[: next(i for i, w in enumerate(steps) if w >= r) + 1]) for r in ranks)
        for said, hint, wrong in (
            ("candidates of one width run side by side: the search does not stop in the middle", 1, sum(ranks)),
            ("the widths are added up", 2, added),
            ("nothing is guided: the whole vocabulary at every position", 1, len(ranks) * vocabulary),
            ("a rank that equals a width is within it", 1, run([r + 1 for r in ranks if r < vocabulary], steps)),
            ("the ranks count from 1", 1, run([max(1, r - 1) for r in ranks], steps)),
            ("that is for each position, all of them together were asked for", 1, right / len(ranks)),
            ("what is beyond the last width costs the whole vocabulary", 3,
             sum(min([w for w in widths if w >= r], default=widths[-1]) for r in ranks)),
            ("what is beyond the last width costs the whole vocabulary", 3,
             sum(min([w for w in widths if w >= r], default=0) for r in ranks)),
        ):  # fmt: skip
            if math.isclose(found, wrong):
                return Wrong(f"{said}, {here}", hint)
        return Wrong(f"too {'many' if found > right else 'few'} {here}", 1)
    return None


def _depths(depth: int, seed: int) -> tuple[Tensor, Tensor]:
    """States [7, 6, 12] behind 0 to 6 layers, position 0 much longer and much alike; and a noisy copy of one depth."""
    states = draw(seed, 7, 6, 12).cumsum(0)
    states[:, 0] = 4000 * draw(seed + 1, 12) + states[:, 0]
    heard = states[depth] + 0.12 * states[depth].norm(dim=-1, keepdim=True) * draw(seed + 2, 6, 12) / 12**0.5
    return states, heard


@exercise(
    "08.8",
    title="Find the cut",
    hints=[
        "the known tokens behind every depth are in states; subtract the vectors: (states - vectors), [n + 1, T, d]",
        "each position counts the same: divide its distance by the length of its own vector before you average",
        "the depth is the one with the smallest mean: argmin",
    ],
    minutes=4,
    difficulty=2,
)
def depth(answer: object) -> str | Wrong | None:
    """depth_of(states [n + 1, T, d], vectors [T, d]): behind how many layers the vectors were taken."""
    for right, seed in ((3, 100), (0, 110), (5, 120), (2, 130), (6, 140)):
        states, heard = _depths(right, seed)
        value = call(answer, states.clone(), heard.clone())
        found = whole(value)
        if found is None:
            return f"a whole number of layers was expected, got {type(value).__name__}"
        if found == right:
            continue
        away = (states - heard).double()
        one = away.norm(dim=-1)
        for said, hint, wrong in (
            ("that is the worst fit", 3, (one / heard.norm(dim=-1)).mean(-1).argmax()),
            ("position 0 decides alone: its vector is many times as long as the others", 2,
             away.square().sum((1, 2)).argmin()),
        ):  # fmt: skip
            if found == int(wrong):
                return Wrong(f"{said}; {len(states)} depths from 0 to {len(states) - 1}", hint)
        return Wrong(f"{found} is not the depth that fits best of 0 to {len(states) - 1}", 1)
    return None


# Letter -> whether it may be said, and what to reply to one who is wrong about it.
CLAIMS: dict[str, tuple[bool, str]] = {
    "a": (True, "a: it was measured, it names observer, knowledge and depths; such a sentence may be said"),
    "b": (False, "b: you have just read behind fifteen layers, and a probe's failure is no protection"),
    "c": (False, "c: a codec that is known is run on the candidates as well"),
    "d": (True, "d: it says who does not have the weights, and claims nothing of those who have"),
    "e": (False, "e: which vectors go up while a reply is made?"),
    "f": (True, "f: it has no next step, so it is never fed back"),
}


@exercise(
    "08.9",
    title="What may be said",
    hints=[
        "a sentence may be said if it names observer and knowledge and says no more than what was measured",
        "ask of every sentence: is there one attacker in this lesson who refutes it?",
    ],
    minutes=4,
    difficulty=2,
)
def claims(answer: object) -> str | Wrong | None:
    """The letters of the sentences that may be said, as a text such as "bc" or any collection of letters."""
    try:
        letters = [str(letter).strip().lower() for letter in answer]  # type: ignore[attr-defined]
    except TypeError:
        return f"letters were expected, such as 'bc', got {type(answer).__name__}"
    said = {letter for letter in letters if letter not in ("", ",")}
    if strange := sorted(said - set(CLAIMS)):
        return f"letters from a to f were expected, got {strange[0]!r}"
    for letter, (may, reply) in CLAIMS.items():
        if (letter in said) != may:
            return Wrong(reply, 1 if may else 2)
    return None
