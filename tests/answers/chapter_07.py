"""Wrong answers of chapter 07 with the message and the hint that they get, and right ones in other clothes."""

import runpy
from pathlib import Path

import numpy as np
import torch

SOLVED = runpy.run_path(
    str(Path(__file__).resolve().parents[2] / "tutorials" / "solutions" / "07_inversion_by_probes.py")
)
log_prior, accuracy, nearest, ridge, lda, held_out, control, lens = SOLVED["ANSWERS"].values()


def unseen_is_impossible(tokens, vocabulary, more):
    counts = torch.bincount(tokens, minlength=vocabulary)
    return (counts / counts.sum()).log()


def as_many_as_seen(tokens, vocabulary, more):
    counts = torch.bincount(tokens) + more
    return (counts / counts.sum()).log()


def added_behind_the_sum(tokens, vocabulary, more):
    counts = torch.bincount(tokens, minlength=vocabulary)
    return ((counts + more) / counts.sum()).log()


def counting(mask, first=lambda right, position, kind: accuracy(right, position, kind)[1]):
    """An accuracy of 07.2 over the tokens of a mask made of (words, start)."""

    def wrong(right, position, kind):
        words = torch.tensor([k != "template" for k in kind])
        return float(right[mask(words, position == 0)].float().mean()), first(right, position, kind)

    return wrong


def regression(x_mean=True, y_mean=True, more=lambda gram, penalty, n: penalty * gram.diagonal().mean(), bias=None):
    """A ridge of 07.4 with one thing done in another way."""

    def wrong(x, y, penalty):
        a, b = x - x.mean(0) * x_mean, y - y.mean(0) * y_mean
        gram = a.T @ a
        weight = torch.linalg.solve(gram + more(gram, penalty, len(x)) * torch.eye(len(gram)), a.T @ b)
        return weight, y.mean(0) - x.mean(0) @ weight if bias is None else bias(x, y, weight)

    return wrong


def punished_bias(x, y, penalty):
    ones = torch.cat([x, torch.ones(len(x), 1)], 1)
    both = torch.linalg.solve(ones.T @ ones + penalty * torch.eye(ones.shape[1]), ones.T @ y)
    return both[:-1], both[-1]


def ridge_of_means(x, y, penalty):
    """The same with the covariance in place of the Gram matrix."""
    a, b = (x - x.mean(0)).double().numpy(), (y - y.mean(0)).double().numpy()
    cov = a.T @ a / len(a)
    weight = np.linalg.inv(cov + penalty * np.diag(cov).mean() * np.eye(len(cov))) @ (a.T @ b / len(a))
    return weight, y.mean(0).numpy() - x.mean(0).numpy() @ weight


def analysis(of_rest=True, level=True, shrink=lambda size, penalty: penalty * size, shift=True, half=0.5, sign=1):
    """An lda of 07.5 with one thing done in another way."""

    def wrong(x, tokens, means, penalty):
        rest = x - means[tokens] if of_rest else x
        middle = (x - means[tokens]).mean(0)
        spread = rest - rest.mean(0) if level else rest
        cov = spread.T @ spread / len(spread)
        cov = cov + shrink(cov.diagonal().mean(), penalty) * torch.eye(len(cov))
        point = torch.linalg.solve(cov, means.T)
        return lambda h: sign * ((h - middle * shift) @ point - half * (means * point.T).sum(-1))

    return wrong


def plain_distance(x, tokens, means, penalty):
    middle = (x - means[tokens]).mean(0)
    return lambda h: -0.5 * torch.cdist(h - middle, means).square()


def mahalanobis(x, tokens, means, penalty):
    """Minus half the squared distance: what is the same for all tokens chooses nothing."""
    rest = x - means[tokens]
    middle = rest.mean(0)
    cov = torch.cov(rest.T, correction=0)
    inverse = torch.linalg.inv(cov + penalty * cov.diagonal().mean() * torch.eye(len(cov)))

    def scores(h):
        away = (h - middle)[:, None] - means
        return -0.5 * torch.einsum("mvd,de,mve->mv", away, inverse, away)

    return scores


def tokens_at_random(document, share, seed):
    return torch.rand(len(document), generator=torch.Generator().manual_seed(seed)) < share


def last_tokens(document, share, seed):
    return torch.arange(len(document)) >= round((1 - share) * len(document))


def first_documents(document, share, seed):
    names = document.unique()
    return torch.isin(document, names[: max(1, round(share * len(names)))])


def none_of_a_few(document, share, seed):
    names = document.unique()
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    return torch.isin(document, names[order[: int(share * len(names))]])


def without_a_seed(document, share, seed):
    return held_out(document, share, int(torch.randint(10**6, ())))


def order_of(count, seed):
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def fits(pairs, judge=lambda read, x, tokens, held: read(x[held]) == tokens[held]):
    """A control of 07.7: the pairs that are fitted to, and what it is judged by."""

    def wrong(fit, x, tokens, held, seed):
        read = fit(*pairs(x, tokens, held, seed))
        return float(judge(read, x, tokens, held).float().mean())

    return wrong


def shuffled(x, tokens, held, seed):
    labels = tokens[~held]
    return x[~held], labels[order_of(len(labels), seed)]


def both_shuffled(x, tokens, held, seed):
    order = order_of(int((~held).sum()), seed)
    return x[~held][order], tokens[~held][order]


def drawn_anew(x, tokens, held, seed):
    return x[~held], torch.randint(29, (int((~held).sum()),), generator=torch.Generator().manual_seed(seed))


def vectors_shuffled(x, tokens, held, seed):
    """The other half of the pairs in another order: the same control."""
    return x[~held][order_of(int((~held).sum()), seed)], tokens[~held]


WRONG = [
    ("07.1", unseen_is_impossible, "not seen has probability 0", 1),
    ("07.1", as_many_as_seen, "got the shape (6,)", 2),
    ("07.1", lambda *given: log_prior(*given).exp(), "these are probabilities", 3),
    ("07.1", lambda *given: log_prior(*given) / np.log(2), "another base", 3),
    ("07.1", added_behind_the_sum, "the probabilities sum to 1.16", 3),
    ("07.1", lambda tokens, vocabulary, more: log_prior(tokens, vocabulary, 1.0), "0.1 more for each of 8", 1),
    ("07.1", lambda *given: "often", "log probabilities of shape (8,) expected, got str", 0),
    ("07.2", counting(lambda words, start: words | ~words), "tokens of the template are counted", 2),
    ("07.2", counting(lambda words, start: ~start), "tokens of the template are counted", 2),
    ("07.2", counting(lambda words, start: words), "position 0 is counted with the others", 3),
    ("07.2", lambda *given: (100 * accuracy(*given)[0], None), "not per cent", 1),
    ("07.2", lambda *given: (0.0, None), "too few right", 1),
    ("07.2", lambda *given: (1.0, None), "too many right", 1),
    ("07.2", counting(lambda words, start: words & ~start, lambda r, p, k: r[p == 0].float().mean()), "one of the", 2),
    ("07.2", lambda *given: (accuracy(*given)[0], None), "half of the tokens at position 0", 3),
    ("07.2", lambda *given: accuracy(*given)[0], "two numbers (counted, first)", 0),
    ("07.2", lambda *given: ("most", None), "a number was expected, got str", 0),
    ("07.3", lambda vectors, rows: (vectors @ rows.T).argmax(-1), "long rows win", 1),
    ("07.3", lambda vectors, rows: torch.cdist(vectors, rows).argmin(-1), "same length", 1),
    ("07.3", lambda vectors, rows: nearest(-vectors, rows), "least alike", 2),
    ("07.3", lambda vectors, rows: torch.zeros(9, dtype=torch.long), "1 of 9 rows", 2),
    ("07.3", lambda vectors, rows: rows[nearest(vectors, rows)], "whole numbers, got values of torch.float32", 0),
    ("07.3", lambda vectors, rows: vectors.long(), "got the shape (9, 8)", 1),
    ("07.3", lambda vectors, rows: {"a": 1}, "token ids were expected, got dict", 0),
    ("07.4", regression(x_mean=False, y_mean=False), "through the origin", 1),
    ("07.4", regression(x_mean=False), "the means of x", 1),
    ("07.4", regression(more=lambda gram, penalty, n: 0.0), "there is no penalty", 2),
    ("07.4", regression(more=lambda gram, penalty, n: penalty), "the penalty is the number itself:", 2),
    ("07.4", regression(more=lambda gram, penalty, n: penalty * n), "times how many pairs", 2),
    ("07.4", regression(bias=lambda x, y, weight: y.mean(0)), "through the means", 4),
    ("07.4", punished_bias, "punished like the weights", 1),
    ("07.4", lambda x, y, penalty: (torch.ones(5, 3), torch.ones(3)), "not the weights of least", 3),
    ("07.4", lambda *given: ridge(*given)[::-1], "weight of shape (5, 3) expected, got the shape (3,)", 3),
    ("07.4", lambda *given: ridge(*given)[0], "a pair (weight, bias)", 0),
    ("07.5", analysis(sign=-1), "the wrong sign", 4),
    ("07.5", analysis(half=0.0), "long prototypes win", 4),
    ("07.5", analysis(half=1.0), "taken off twice", 4),
    ("07.5", analysis(shift=False), "not taken off the vector", 1),
    ("07.5", analysis(level=False, shift=False), "in the covariance and in the vector", 1),
    ("07.5", analysis(level=False), "still in the covariance", 2),
    ("07.5", analysis(of_rest=False), "differences between tokens included", 2),
    ("07.5", plain_distance, "there is no covariance", 2),
    ("07.5", analysis(shrink=lambda size, penalty: 0.0), "not shrunk", 3),
    ("07.5", analysis(shrink=lambda size, penalty: penalty), "not a share of the variance", 3),
    ("07.5", lambda *given: lambda h: torch.ones(9, 7), "not the scores of the formula", 4),
    ("07.5", lambda *given: lambda h: torch.ones(7), "got the shape (7,)", 4),
    ("07.5", lambda *given: torch.ones(9, 7), "a function from vectors to scores", 0),
    ("07.6", tokens_at_random, "of 10 documents have tokens on both sides", 1),
    ("07.6", last_tokens, "1 of 10 documents have tokens", 1),
    ("07.6", lambda *given: ~held_out(*given), "True is what is kept for the test", 3),
    ("07.6", none_of_a_few, "0 of 10 documents", 2),
    ("07.6", without_a_seed, "another split the second time", 2),
    ("07.6", first_documents, "three seeds give the same", 2),
    ("07.6", lambda *given: held_out(*given).nonzero(), "got torch.int64", 3),
    ("07.6", lambda *given: "all", "a mask of True and False was expected", 0),
    ("07.7", fits(lambda x, tokens, held, seed: shuffled(x, tokens, held ^ held, seed)), "were fitted to as well", 1),
    ("07.7", fits(lambda x, tokens, held, seed: (x[~held][:5], tokens[~held][:5])), "fitted to 5 vectors", 1),
    ("07.7", fits(drawn_anew), "not the same ones in another order", 2),
    ("07.7", fits(both_shuffled), "every vector still has its own label", 2),
    ("07.7", fits(shuffled, lambda read, x, tokens, held: read(x[~held]) == shuffled(x, tokens, held, 3)[1]), "mem", 3),
    ("07.7", fits(shuffled, lambda read, x, tokens, held: read(x) == tokens), "not that of the true labels", 3),
    ("07.7", lambda fit, x, tokens, held, seed: 0.3, "fit was never called", 3),
    ("07.7", lambda fit, x, tokens, held, seed: fit(*shuffled(x, tokens, held, seed)), "a share from 0 to 1", 0),
    ("07.8", lambda vectors, positions, norm, head: (head(vectors).argmax(-1), positions + 1), "norm before", 1),
    ("07.8", lambda vectors, positions, norm, head: (norm(vectors).argmax(-1), positions + 1), "LM head is missing", 1),
    ("07.8", lambda *given: (torch.full((6,), 11), given[1] + 1), "of 6 guesses are right", 1),
    ("07.8", lambda *given: (lens(*given)[0], given[1]), "not about the token that stands there", 3),
    ("07.8", lambda *given: (lens(*given)[0], given[1] - 1), "positions of the tokens guessed", 3),
    ("07.8", lambda vectors, positions, norm, head: (head(norm(vectors)), positions), "guesses are whole numbers", 0),
    ("07.8", lambda *given: lens(*given)[0], "a pair (guesses, positions)", 0),
]
RIGHT = [
    ("07.1", lambda *given: log_prior(*given).numpy()),
    ("07.1", lambda tokens, vocabulary, more: (torch.bincount(tokens, minlength=vocabulary) + more).log() - np.log(
        len(tokens) + more * vocabulary)),
    ("07.2", lambda *given: [np.float32(part) if part is not None else float("nan") for part in accuracy(*given)]),
    ("07.3", lambda vectors, rows: torch.cosine_similarity(vectors[:, None], rows[None], dim=-1).argmax(-1).tolist()),
    ("07.4", ridge_of_means),
    ("07.4", lambda x, y, penalty: tuple(part.float() for part in ridge(x.double(), y.double(), penalty))),
    ("07.5", mahalanobis),
    ("07.6", lambda *given: held_out(*given).numpy()),
    ("07.7", fits(vectors_shuffled)),
    ("07.8", lambda *given: [part.tolist() for part in lens(*given)]),
]  # fmt: skip
