"""Checks for chapter 09, measuring leakage: bits, a calibrated posterior, and error bars by document."""

from __future__ import annotations

import math

import numpy as np

from lsplit_kit.course.calling import number
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.course.ex_06 import close, numbers_of

LN2 = math.log(2)


@exercise(
    "09.1",
    title="Bits that an attack reads",
    hints=[
        "the surprise at one token is minus its log probability: a token that was certain costs 0",
        "a natural logarithm divided by np.log(2) is in bits",
        "both entropies are means over tokens, not sums, and of logarithms, not of probabilities",
        "h0 is the prior's surprise, ce the attacker's; what is read is how much smaller the second is: h0 - ce",
    ],
    minutes=4,
    difficulty=1,
)
def bits(answer: object) -> str | Wrong | None:
    """leak(log_prob, prior_log_prob): (h0, ce, bits read), all in bits a token."""
    rng = np.random.default_rng(9)
    for size, good in ((200, 0.7), (40, 0.1)):
        prior = np.log(rng.dirichlet(np.ones(50), size)[:, 0] + 1e-4)
        posterior = np.where(rng.random(size) < good, -0.05, prior - 0.5)
        said = numbers_of(call(answer, posterior.copy(), prior.copy()), 3, "three numbers (h0, ce, bits)")
        if isinstance(said, str):
            return said
        h0, ce = -prior.mean() / LN2, -posterior.mean() / LN2
        right = (h0, ce, h0 - ce)
        if _same(said, right):
            continue
        geometric = tuple(-math.log2(np.exp(x).mean()) for x in (prior, posterior))
        for told, hint, wrong in (
            ("these are natural units, not bits", 2, tuple(x * LN2 for x in right)),
            ("those are decimal digits, not bits", 2, tuple(x * LN2 / math.log(10) for x in right)),
            ("a surprise is not below 0", 1, (-h0, -ce, ce - h0)),
            ("a surprise is not below 0", 1, (-h0, -ce, h0 - ce)),
            ("that is of all tokens together", 3, tuple(x * size for x in right)),
            ("the logarithm of a mean is not the mean of logarithms", 3, (*geometric, geometric[0] - geometric[1])),
            ("h0 and ce are exchanged", 4, (ce, h0, ce - h0)),
            ("h0 and ce are exchanged", 4, (ce, h0, h0 - ce)),
            ("h0 and ce are right; an attack that helps reads more than 0 bits", 4, (h0, ce, ce - h0)),
            ("h0 and ce are right; the third is a difference, not a share", 4, (h0, ce, 1 - ce / h0)),
        ):
            if _same(said, wrong):
                return Wrong(told, hint)
        off = [name for name, a, b in zip(("h0", "ce", "bits read"), said, right, strict=True) if not close(a, b)]
        return Wrong(f"not right yet: {', '.join(off)}", 1)
    return None


def _same(said: list[float], other: tuple[float, ...]) -> bool:
    return all(close(a, b) for a, b in zip(said, other, strict=True))


FAR = -40_000.0  # added to all scores of a token: it changes no posterior, and exp() of it is 0
TAUS = (0.0, 0.02, 0.05, 0.125, 0.3, 1.0)


def cross_entropies(scores: np.ndarray, log_prior: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Bits a token of the posterior softmax(tau score + log p), for every tau of TAUS."""
    found = []
    for tau in TAUS:
        logits = tau * scores + log_prior
        own = logits[np.arange(len(truth)), truth] - np.logaddexp.reduce(logits, 1)
        found.append(-own.mean() / LN2)
    return np.array(found)


def _scores(sure: float, noise: float, size: int, far: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores [N, V] of points on a line seen through noise, log p [V], and the truth [N]."""
    rng = np.random.default_rng(int(sure * 10))
    prior = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    truth = rng.choice(len(prior), size, p=prior)
    seen = truth + noise * rng.normal(size=size)
    return far - sure * np.square(seen[:, None] - np.arange(len(prior))) / 2 / noise**2, np.log(prior), truth


@exercise(
    "09.2",
    title="How sure may it be?",
    hints=[
        "logits = tau * scores + log_prior, shape [N, V]: tau scales the scores alone, the prior stays as it is",
        "divide by the sum over the vocabulary: log_prob = logits - np.logaddexp.reduce(logits, 1, keepdims=True)",
        "of row i the true token is truth[i]: log_prob[np.arange(len(truth)), truth]; the mean of minus that, in bits",
        "np.logaddexp.reduce never leaves the logarithms; np.exp of a large score is infinite, and of a small one 0",
        "min((ce(tau), tau) for tau in taus) has the smallest cross-entropy first, and its tau with it",
    ],
    minutes=8,
    difficulty=3,
)
def calibrated(answer: object) -> str | Wrong | None:
    """best_tau(scores, log_prior, truth, taus): the tau of least cross-entropy, and that in bits."""
    for case in ((8.0, 1.0, 300, 0.0), (3.0, 0.6, 300, 0.0), (0.01, 3.0, 300, 0.0), (8.0, 0.8, 300, FAR)):
        scores, log_prior, truth = _scores(*case)
        if case[0] < 1:  # a wire that says nothing
            scores = 8 * np.random.default_rng(1).normal(size=scores.shape)
        with np.errstate(all="ignore"):  # a learner's overflow is answered below, with a sentence
            value = call(answer, scores.copy(), log_prior.copy(), truth.copy(), TAUS)
        said = _pair(value)
        if isinstance(said, (Wrong, str)):
            return said
        tau, ce = said
        right = cross_entropies(scores, log_prior, truth)
        best = int(right.argmin())
        if close(tau, TAUS[best]) and close(ce, right[best]):
            continue
        if not math.isfinite(ce) or (case[-1] and tau == 0 and close(ce, right[0])):
            return Wrong("your cross-entropy is not a finite number where scores are far from 0", 4)
        for told, hint, all_taus in _variants(scores, log_prior, truth):
            at = int(all_taus.argmin())
            if close(tau, TAUS[at]) and close(ce, all_taus[at]):
                return Wrong(told, hint)
        if close(tau, best) and close(ce, right[best]):
            return Wrong("that is the number of the tau in the list, not tau itself", 5)
        if any(close(tau, t) and close(ce, r) for t, r in zip(TAUS, right, strict=True)):
            more = "surer" if tau > TAUS[best] else "less sure"
            return Wrong(
                f"the cross-entropy fits your tau, but another one has less: you are {more} than you may be", 5
            )
        if close(tau, TAUS[best]):
            return Wrong("the tau is right, its cross-entropy is not", 3)
        return Wrong("neither the tau nor its cross-entropy is right", 1)
    return None


def _pair(value: object) -> tuple[float, float] | Wrong | str:
    """A learner's (tau, ce), or what is wrong with it."""
    try:
        parts = [number(part) for part in value]  # type: ignore[attr-defined]
    except TypeError:
        return f"two numbers (tau, ce) were expected, got {type(value).__name__}"
    if len(parts) != 2 or None in parts:
        return f"two numbers (tau, ce) were expected, got {len(parts)} values"
    tau, ce = (float(part) for part in parts if part is not None)
    on = [any(close(part, t) for t in TAUS) for part in (tau, ce)]
    return Wrong("tau comes first, then its cross-entropy", 5) if on == [False, True] else (tau, ce)


def _variants(scores: np.ndarray, log_prior: np.ndarray, truth: np.ndarray) -> list[tuple[str, int, np.ndarray]]:
    """Common mistakes: what to say, the hint, and the cross-entropies that they give."""
    rows = np.arange(len(truth))
    right = cross_entropies(scores, log_prior, truth)
    raw = np.array([-(t * scores + log_prior)[rows, truth].mean() / LN2 for t in TAUS])
    scaled = []
    for tau in TAUS:
        logits = tau * (scores + log_prior)
        scaled.append(-(logits[rows, truth] - np.logaddexp.reduce(logits, 1)).mean() / LN2)
    return [
        ("the prior is left out: an attacker knows which words are common", 1,
         cross_entropies(scores, np.zeros_like(log_prior), truth)),
        ("tau scales the prior too: with tau = 0 nothing would be known of how often words occur", 1, np.array(scaled)),
        ("your probabilities of one row do not add up to 1", 2, raw),
        ("the tau is right, but its cross-entropy is in natural units, not bits", 3, right * LN2),
    ]  # fmt: skip


@exercise(
    "09.3",
    title="Draw documents, not tokens",
    hints=[
        "a row of draws names documents: np.concatenate([values[document == d] for d in row]) are all of their tokens",
        "a document that was drawn twice counts twice, with all of its tokens",
        "the mean is over the gathered tokens: a long document has more of them, and more weight",
        "one mean for each row of draws, an array [R]; their spread is the error bar, and comes later",
    ],
    minutes=6,
    difficulty=2,
)
def by_document(answer: object) -> str | Wrong | None:
    """drawn_means(values, document, draws): the mean over the tokens of the drawn documents, for each row of draws."""
    rng = np.random.default_rng(3)
    document = np.repeat(np.arange(5), (2, 9, 4, 1, 6))
    values = rng.normal(size=len(document)) + 3 * document
    mixed = rng.permutation(len(document))  # tokens of a document need not stand side by side
    values, document = values[mixed], document[mixed]
    draws = np.array([[0, 1, 2, 3, 4], [1, 1, 1, 1, 1], [0, 3, 3, 4, 0], [2, 1, 2, 4, 3]])
    value = call(answer, values.copy(), document.copy(), draws.copy())
    kept = [values[document == d] for d in range(5)]
    sizes, means = np.array([len(k) for k in kept]), np.array([k.mean() for k in kept])
    right = np.array([np.concatenate([kept[d] for d in row]).mean() for row in draws])
    said = number(value)
    if said is not None:
        what = "their standard deviation" if any(close(said, right.std(ddof=k)) for k in (0, 1)) else "one number"
        return Wrong(f"one mean for each row of draws was expected, got {what}", 4)
    found = numbers_of(value, len(draws), f"{len(draws)} means, one for each row of draws,")
    if isinstance(found, str):
        return found
    got = np.array(found)
    once = np.array([np.concatenate([kept[d] for d in sorted(set(row))]).mean() for row in draws.tolist()])
    for told, hint, wrong in (
        ("the draws name documents, and you took tokens by these numbers", 1, values[draws].mean(1)),
        ("every document has the same weight, whatever its length", 3, means[draws].mean(1)),
        ("a document that is drawn twice counts once", 2, once),
        ("those are sums over documents, not means over tokens", 3, (means * sizes)[draws].sum(1)),
        ("tokens of documents in this order, not of the drawn ones: every row has the same mean", 1,
         np.full(len(draws), values.mean())),
    ):  # fmt: skip
        if not np.allclose(got, right) and np.allclose(got, wrong):
            return Wrong(told, hint)
    off = np.flatnonzero(~np.isclose(got, right))
    return None if not len(off) else Wrong(f"the mean of row {draws[off[0]].tolist()} is not right", 1)
