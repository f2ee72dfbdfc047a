"""Wrong answers of chapter 09 with what is said to them, and right ones in other clothes."""

import math
import runpy
from pathlib import Path

import numpy as np
import torch

LN2 = np.log(2)
SOLVED = runpy.run_path(
    str(Path(__file__).resolve().parent.parent.parent / "tutorials" / "solutions" / "09_measuring_leakage.py")
)


def leak_as(change):
    """A leak of 09.1 of which `change` makes something else."""
    return lambda log_prob, prior: change(*SOLVED["leak"](log_prob, prior))


def of_sums(log_prob, prior):
    return tuple(x * len(prior) for x in SOLVED["leak"](log_prob, prior))


def of_mean_probabilities(log_prob, prior):
    h0, ce = (-np.log2(np.exp(x).mean()) for x in (prior, log_prob))
    return h0, ce, h0 - ce


def ce_of(logits, truth):
    own = logits[np.arange(len(truth)), truth] - np.logaddexp.reduce(logits, 1)
    return -own.mean() / LN2


def tau_by(posterior, unit=1.0, pick=min, swap=False, index=False):
    """A best_tau of 09.2 with another posterior(tau, scores, log_prior), unit, or choice."""

    def wrong(scores, log_prior, truth, taus):
        found = [(ce_of(posterior(tau, scores, log_prior), truth) * unit, tau) for tau in taus]
        ce, tau = pick(found)
        tau = list(taus).index(tau) if index else tau
        return (ce, tau) if swap else (tau, ce)

    return wrong


def posterior(tau, scores, log_prior):
    return tau * scores + log_prior


def no_sum(scores, log_prior, truth, taus):
    ce, tau = min((-posterior(t, scores, log_prior)[np.arange(len(truth)), truth].mean() / LN2, t) for t in taus)
    return tau, ce


def leaves_the_logarithms(scores, log_prior, truth, taus):
    def ce(tau):
        q = np.exp(posterior(tau, scores, log_prior))
        q = q / q.sum(1, keepdims=True)
        return -np.log2(q[np.arange(len(truth)), truth]).mean()

    found, tau = min((ce(tau), tau) for tau in taus)
    return tau, found


def wrong_rows(scores, log_prior, truth, taus):
    tau, _ = SOLVED["best_tau"](scores, log_prior, truth, taus)
    logits = posterior(tau, scores, log_prior)
    return tau, -(logits - np.logaddexp.reduce(logits, 1, keepdims=True)).mean() / LN2


def most_accurate(scores, log_prior, truth, taus):
    tau = max(taus, key=lambda t: (posterior(t, scores, log_prior).argmax(1) == truth).mean())
    return tau, ce_of(posterior(tau, scores, log_prior), truth)


def gathered(pick=lambda row: row, of=np.mean):
    """A drawn_means of 09.3 that goes through other documents, or makes another figure of their tokens."""
    return lambda values, document, draws: [
        of(np.concatenate([values[document == d] for d in pick(row)])) for row in draws.tolist()
    ]


def mean_of_means(values, document, draws):
    means = np.array([values[document == d].mean() for d in range(document.max() + 1)])
    return means[draws].mean(1)


def in_torch(values, document, draws):
    values, document = torch.tensor(values), torch.tensor(document)
    return torch.stack([torch.cat([values[document == d] for d in row]).mean() for row in draws.tolist()])


def by_counts(values, document, draws):
    total, count = np.bincount(document, values), np.bincount(document)
    return total[draws].sum(1) / count[draws].sum(1)


def canary(q=None, mean=None, slack=None):
    """A canary_bits of 09.4 with another mixture, mean, or slack."""

    def wrong(log_prob, size, eps):
        p = np.exp(log_prob)
        mixed = q(p, size, eps) if q else (1 - eps) * p + eps / size
        bits = mean(mixed, size) if mean else (np.log2(size) + np.log2(mixed)).mean()
        width, count = np.log2(size) - np.log2(eps), len(p)
        less = slack(width, count, size) if slack else width * np.sqrt(np.log(20) / 2 / count)
        return bits, bits - less

    return wrong


def kth(of, index=lambda k: k - 1):
    """A threshold of 09.5 with another k, or another place in the array."""

    def wrong(ahead, level):
        k = of(level, len(ahead))
        return math.inf if k > len(ahead) else float(np.sort(ahead)[index(k)])

    return wrong


def usual(level, count):
    return math.ceil(level * (count + 1))


def never_infinite(ahead, level):
    return np.sort(ahead)[min(usual(level, len(ahead)), len(ahead)) - 1]


def no_guard(ahead, level):
    return np.sort(ahead)[usual(level, len(ahead)) - 1]


def at_most(left=lambda h0, crossed: max(0.0, h0 - crossed), share=None, most=1.0, bits=8):
    """An at_most of 09.6 with other bits a byte, another rest, or another share made of it."""

    def wrong(payload, h0, vocabulary):
        rest = left(h0, bits * payload)
        made = share(rest, vocabulary) if share else 1 - (rest - 1) / math.log2(vocabulary - 1)
        return made if most is None else min(most, made)

    return wrong


def forgets_to_return(payload, h0, vocabulary):
    left = max(0.0, h0 - 8 * payload)  # noqa: F841


WRONG = [
    ("09.1", 12, "a function was expected", 0),
    ("09.1", leak_as(lambda h0, ce, bits: bits), "three numbers (h0, ce, bits) were expected, got float64", 0),
    ("09.1", leak_as(lambda h0, ce, bits: (h0, ce)), "got 2 of them", 0),
    ("09.1", leak_as(lambda *all: [x * LN2 for x in all]), "natural units, not bits", 2),
    ("09.1", leak_as(lambda *all: [x * LN2 / np.log(10) for x in all]), "decimal digits", 2),
    ("09.1", leak_as(lambda h0, ce, bits: (-h0, -ce, -bits)), "a surprise is not below 0", 1),
    ("09.1", of_sums, "of all tokens together", 3),
    ("09.1", of_mean_probabilities, "the logarithm of a mean", 3),
    ("09.1", leak_as(lambda h0, ce, bits: (ce, h0, bits)), "exchanged", 4),
    ("09.1", leak_as(lambda h0, ce, bits: (h0, ce, -bits)), "more than 0 bits", 4),
    ("09.1", leak_as(lambda h0, ce, bits: (h0, ce, bits / h0)), "a difference, not a share", 4),
    ("09.1", leak_as(lambda h0, ce, bits: (h0, ce, 1.0)), "not right yet: bits read", 1),
    ("09.2", tau_by(lambda t, s, p: t * s), "the prior is left out", 1),
    ("09.2", tau_by(lambda t, s, p: t * (s + p)), "tau scales the prior too", 1),
    ("09.2", no_sum, "do not add up to 1", 2),
    ("09.2", wrong_rows, "the tau is right, its cross-entropy is not", 3),
    ("09.2", tau_by(posterior, unit=LN2), "in natural units", 3),
    ("09.2", leaves_the_logarithms, "not a finite number", 4),
    ("09.2", tau_by(posterior, swap=True), "tau comes first", 5),
    ("09.2", tau_by(posterior, index=True), "the number of the tau in the list", 5),
    ("09.2", tau_by(posterior, pick=max), "another one has less", 5),
    ("09.2", most_accurate, "another one has less", 5),
    ("09.2", lambda scores, log_prior, truth, taus: 0.125, "two numbers (tau, ce) were expected", 0),
    ("09.2", lambda scores, log_prior, truth, taus: (0.7, 0.7), "neither the tau", 1),
    ("09.3", lambda values, document, draws: values[draws].mean(1), "by these numbers", 1),
    ("09.3", mean_of_means, "every document has the same weight", 3),
    ("09.3", gathered(pick=lambda row: sorted(set(row))), "drawn twice counts once", 2),
    ("09.3", gathered(of=np.sum), "sums over documents", 3),
    ("09.3", gathered(pick=lambda row: range(5)), "every row has the same mean", 1),
    ("09.3", lambda v, d, draws: np.std(by_counts(v, d, draws)), "got their standard deviation", 4),
    ("09.3", lambda v, d, draws: by_counts(v, d, draws).mean(), "got one number", 4),
    ("09.3", lambda v, d, draws: by_counts(v, d, draws)[:3], "got 3 of them", 0),
    ("09.3", gathered(of=np.median), "the mean of row", 1),
    ("09.4", canary(q=lambda p, size, eps: p), "infinitely many bits", 1),
    ("09.4", canary(q=lambda p, size, eps: p + eps / size), "sum to more than 1", 1),
    ("09.4", canary(q=lambda p, size, eps: (1 - eps) * p + eps), "each of its secrets", 1),
    ("09.4", canary(mean=lambda q, size: np.log2(size) + np.log2(q.mean())), "the logarithm of a mean", 2),
    ("09.4", canary(mean=lambda q, size: np.log(size) + np.log(q).mean()), "natural units", 2),
    ("09.4", canary(mean=lambda q, size: -np.log2(q).mean()), "what was left open", 2),
    ("09.4", canary(mean=lambda q, size: 1.5), "bits is not right yet", 2),
    ("09.4", canary(slack=lambda w, n, size: -w * np.sqrt(np.log(20) / 2 / n)), "not above what was read", 4),
    ("09.4", canary(slack=lambda w, n, size: np.log2(size) * np.sqrt(np.log(20) / 2 / n)), "has eps in it", 3),
    ("09.4", canary(slack=lambda w, n, size: w * np.sqrt(np.log2(20) / 2 / n)), "is a natural one", 4),
    ("09.4", canary(slack=lambda w, n, size: w * np.sqrt(np.log(20) / n)), "twice as many secrets", 4),
    ("09.4", canary(slack=lambda w, n, size: w * np.log(20) / 2 / n), "a root is missing", 4),
    ("09.4", canary(slack=lambda w, n, size: 0.0), "plays no part", 4),
    ("09.4", canary(slack=lambda w, n, size: 0.5), "lower is not", 3),
    ("09.4", lambda log_prob, size, eps: 3.0, "two numbers (bits, lower) were expected", 0),
    ("09.5", no_guard, "beyond the end", 4),
    ("09.5", never_infinite, "promises nothing", 4),
    ("09.5", np.quantile, "a quantile between two masses", 1),
    ("09.5", lambda ahead, level: 2.0, "none of the masses", 1),
    ("09.5", kth(usual, index=lambda k: k), "one too far", 3),
    ("09.5", kth(lambda level, n: math.ceil(level * n) if n > 10 else 11), "the new token is not counted", 2),
    ("09.5", kth(lambda level, n: math.ceil((1 - level) * (n + 1))), "from the wrong end", 2),
    ("09.5", kth(lambda level, n: n), "larger mass", 2),
    ("09.5", lambda ahead, level: "x", "a number was expected", 0),
    ("09.6", at_most(bits=1), "bytes count as bits", 1),
    ("09.6", at_most(left=lambda h0, crossed: h0), "are not taken off", 2),
    ("09.6", at_most(share=lambda rest, v: 1 - rest / math.log2(v - 1)), "is lost", 3),
    ("09.6", at_most(share=lambda rest, v: (rest - 1) / math.log2(v - 1)), "wrong at least", 3),
    ("09.6", at_most(share=lambda rest, v: 1 - (rest - 1) / (v - 1)), "not the vocabulary", 3),
    ("09.6", at_most(share=lambda rest, v: 1 - (rest - 1) / math.log(v - 1)), "natural one", 3),
    ("09.6", at_most(most=None), "a share above 1", 4),
    ("09.6", at_most(share=lambda rest, v: 0.99), "too large", 2),
    ("09.6", forgets_to_return, "is a `return` missing", 0),
    ("09.7", "abce", "not b: ", 1),
    ("09.7", ["a", "d"], "not d: ", 2),
    ("09.7", {"a", "c", "e", "f"}, "not f: ", 3),
    ("09.7", "g", "not g: ", 1),
    ("09.7", ["a"], "2 more may", 4),
    ("09.7", "", "some of the statements", 4),
    ("09.7", ["a", "h"], "the letters a to g", 0),
    ("09.7", 3, "letters were expected", 0),
]
RIGHT = [
    ("09.1", leak_as(lambda *all: np.array(all))),
    ("09.1", leak_as(lambda *all: torch.tensor(all))),
    ("09.2", tau_by(posterior)),
    ("09.2", tau_by(lambda t, s, p: t * (s - s.max(1, keepdims=True)) + p)),
    ("09.3", in_torch),
    ("09.3", by_counts),
    ("09.3", gathered()),
    ("09.4", canary()),
    ("09.5", kth(usual)),
    ("09.5", lambda ahead, level: np.sort(np.append(ahead, np.inf))[usual(level, len(ahead)) - 1]),
    ("09.6", at_most()),
    ("09.6", at_most(left=lambda h0, crossed: h0 - crossed)),
    ("09.7", ["E", "c", "A"]),
    ("09.7", "a, c, e"),
    ("09.7", ("a", "c", "e")),
]
