"""Wrong answers of chapter 08 with the message and the hint that they get, and right ones in other clothes."""

import runpy
from pathlib import Path

import numpy as np
import torch

SOLVED = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tutorials" / "solutions" / "08_exact_inversion.py"))
changed, tried, shared, decide, match, belief, cost, depth_of, _ = SOLVED["ANSWERS"].values()


def differs(compare, in_place=False):
    """A `changed` of 08.1 with another comparison of the vectors before and after."""

    def wrong(head, ids, t, other):
        before, swapped = head(ids[None])[0], ids if in_place else ids.clone()
        swapped[t] = other
        return compare(before, head(swapped[None])[0])

    return wrong


def exactly(before, after):
    return (before != after).any(-1)


def whole_length(before, after):
    """A tolerance for all positions together."""
    return (after - before).abs().amax(-1) > 1e-3


def rows(prefix, candidates):
    return torch.cat([prefix.expand(len(candidates), -1), candidates[:, None]], dim=1)


def one_by_one(head, prefix, candidates):
    return torch.stack([head(torch.cat([prefix, c[None]])[None])[0, -1] for c in candidates])


def chained(head, prefix, candidates):
    return head(torch.cat([prefix, candidates])[None])[0, len(prefix) :]


def mask_of(own, see=True, at=lambda prefix, count: torch.full((count,), prefix)):
    """A `shared` of 08.3: what candidates see of each other, whether they see the prefix, and where they stand."""

    def wrong(prefix, count):
        seen = torch.full((count, prefix), see)
        return torch.cat([seen, own(count)], dim=1), at(prefix, count)

    return wrong


def eye(count):
    return torch.eye(count, dtype=torch.bool)


def triangle(count):
    return torch.ones(count, count, dtype=torch.bool).tril()


def additive(prefix, count):
    """As libraries want it: what is added to the scores of attention."""
    mask, at = shared(prefix, count)
    return torch.zeros(mask.shape).masked_fill(~mask, float("-inf")), at.tolist()


def second_of_list(ids, away, threshold, margin):
    first = away.argmin()
    if away[first] >= threshold or (len(away) > 1 and away.sort().values[1] <= margin * away[first]):
        return -1
    return int(ids[first])


def no_list_of_one(ids, away, threshold, margin):
    others = away[ids != ids[away.argmin()]]
    return decide(ids, away, threshold, margin) if len(others) else -1


def search(widen=True, again=False, only_known=False, below=True, true_count=True):
    """A `match` of 08.5 with one thing done in another way."""

    def wrong(vectors, known, tried, order, widths, threshold):
        prefix, count = known, 0
        for h in vectors:
            ids, away, done = order(prefix), torch.empty(0), 0
            tokens = torch.empty(0, dtype=torch.long)
            for width in widths if widen else widths[:1]:
                new = ids[:width] if again else ids[done:width]
                states = tried(prefix, new)
                tokens = torch.cat([tokens, new])
                away = torch.cat([away, (states - h).square().sum(-1) / h.square().sum()])
                count, done = count + len(new), width
                if below and away.min() < threshold:
                    break
            found = tokens[away.argmin()]
            if only_known and away.min() >= threshold:
                found = tokens[0]
            prefix = torch.cat([prefix, found[None]])
        return prefix[len(known) :], count if true_count else 7

    return wrong


def never_commits(vectors, known, tried, order, widths, threshold):
    found = []
    for h in vectors:
        ids = order(known)
        found.append(ids[(tried(known, ids) - h).square().sum(-1).argmin()])
    return torch.stack(found), len(vectors) * widths[-1]


def as_list(vectors, known, tried, order, widths, threshold):
    found, count = match(vectors, known, tried, order, widths, threshold)
    return [found.tolist(), np.int64(count)]


def believed(away=lambda v, h: (v - h).square().sum(-1), sigma=lambda s: 2 * s**2, prior=lambda p: p, sign=-1):
    """A belief of 08.6 with one part of it done in another way."""
    return lambda v, h, p, s: prior(p) + sign * away(v, h) / sigma(s)


def steps(total):
    """A cost of 08.7 from the steps (widths and the whole vocabulary) and the rank of one position."""
    return lambda ranks, widths, vocabulary: sum(total((*widths, vocabulary), rank) for rank in ranks)


def fits(steps, rank):
    return min(w for w in steps if w >= rank)


def squares(states, vectors):
    return int((states - vectors).square().sum((1, 2)).argmin())


def cosines(states, vectors):
    return torch.cosine_similarity(states, vectors[None], dim=-1).mean(-1).argmax()


WRONG = [
    ("08.1", differs(exactly), "in the last bits", 3),
    ("08.1", differs(exactly, in_place=True), "changed the ids that it was given", 1),
    ("08.1", lambda *given: ~changed(*given), "True is where something changes", 2),
    ("08.1", lambda head, ids, t, other: torch.arange(7) == t, "position 4 changes, with another token at", 2),
    ("08.1", lambda head, ids, t, other: torch.arange(7) >= t, "position 5 does not change", 2),
    ("08.1", lambda *given: changed(*given).any(), "got torch.bool of shape ()", 2),
    ("08.1", lambda *given: changed(*given).nonzero()[:, 0], "got torch.int64 of shape (4,)", 2),
    ("08.1", lambda *given: "later ones", "a mask of True and False", 0),
    ("08.2", one_by_one, "head was called 5 times for 5 candidates", 2),
    ("08.2", lambda head, prefix, c: head(rows(prefix, c))[:, 0], "vector of the first position", 3),
    ("08.2", lambda head, prefix, c: head(c[:, None])[:, -1], "without the text before them", 1),
    ("08.2", lambda head, prefix, c: head(rows(prefix, c).roll(1, 1))[:, -1], "before the text, not behind it", 1),
    ("08.2", chained, "follow each other, as one text", 1),
    ("08.2", lambda head, prefix, c: head(rows(prefix, c))[:, -1] + 1, "other vectors than the candidates", 1),
    ("08.2", lambda head, prefix, c: head(rows(prefix, c)), "got the shape (5, 4, 6)", 3),
    ("08.3", mask_of(triangle), "candidates see each other", 2),
    ("08.3", mask_of(lambda count: ~eye(count)), "does not see itself", 2),
    ("08.3", mask_of(eye, see=False), "does not see all of the text", 1),
    ("08.3", mask_of(eye, at=lambda prefix, count: torch.arange(prefix, prefix + count)), "not all positions", 3),
    ("08.3", mask_of(eye, at=lambda prefix, count: prefix), "got the shape ()", 1),
    ("08.3", lambda prefix, count: (eye(count), torch.full((count,), prefix)), "of shape (3, 8) was expected", 1),
    ("08.3", lambda prefix, count: (shared(prefix, count)[0].T, [prefix]), "got (8, 3)", 1),
    ("08.3", lambda prefix, count: ("all", [prefix]), "a mask was expected, got str", 0),
    ("08.3", lambda prefix, count: shared(prefix, count)[0], "a pair (mask, positions)", 0),
    ("08.4", lambda ids, away, threshold, margin: int(ids[away.argmin()]), "none of them is it", 1),
    ("08.4", lambda ids, away, t, m: int(ids[away.argmin()]) if away.min() < t else -1, "two are near", 2),
    ("08.4", second_of_list, "stands in the list twice", 3),
    ("08.4", no_list_of_one, "there is one token only", 4),
    ("08.4", lambda ids, away, threshold, margin: int(away.argmin()), "that is a place in the list", 1),
    ("08.4", lambda ids, away, threshold, margin: -1, "nothing was found, but one is near", 1),
    ("08.4", lambda ids, away, threshold, margin: away.min(), "a token id or -1", 0),
    ("08.5", never_commits, "searched behind the same text", 4),
    ("08.5", search(widen=False), "not among the first 4, and no more were tried", 1),
    ("08.5", search(only_known=True), "the nearest of all is taken", 3),
    ("08.5", search(below=False), "the whole vocabulary was tried at every position", 3),
    ("08.5", search(again=True), "do not try again what was tried", 1),
    ("08.5", search(true_count=False), "and you say 7", 1),
    ("08.5", lambda *given: (torch.cat([given[1], match(*given)[0]]), 1), "the known tokens were asked for", 4),
    ("08.5", lambda *given: (torch.zeros(6, dtype=torch.long), 0), "0 of 6 tokens are right", 2),
    ("08.5", lambda *given: (match(*given)[0].flip(0), 0), "of 6 tokens are right", 2),
    ("08.5", lambda *given: (match(*given)[0], "few"), "a whole number was expected, got str", 0),
    ("08.5", lambda *given: match(*given)[0], "a pair (ids, candidates tried)", 0),
    ("08.6", believed(prior=torch.zeros_like), "the prior is missing", 3),
    ("08.6", believed(away=lambda v, h: torch.zeros(8)), "the vector is not looked at", 1),
    ("08.6", believed(sign=1), "far ones are believed", 1),
    ("08.6", believed(prior=torch.exp), "is a logarithm already", 3),
    ("08.6", believed(prior=lambda p: -p), "is taken off", 3),
    ("08.6", believed(sigma=lambda s: s**2), "the 2 of 2 sigma ** 2", 1),
    ("08.6", believed(sigma=lambda s: 2.0), "sigma is missing", 1),
    ("08.6", believed(sigma=lambda s: 2 * s), "sigma is not squared", 1),
    ("08.6", believed(away=lambda v, h: (v - h).norm(dim=-1)), "the distance is not squared", 2),
    ("08.6", believed(away=lambda v, h: (v - h).square().mean(-1)), "averaged over the channels", 2),
    ("08.6", lambda *given: torch.ones(8).cumsum(0), "not log prior minus", 1),
    ("08.6", lambda *given: belief(*given).argmax(), "got the shape ()", 1),
    ("08.7", lambda ranks, widths, vocabulary: sum(ranks), "does not stop in the middle", 1),
    ("08.7", steps(lambda s, rank: sum(s[: s.index(fits(s, rank)) + 1])), "the widths are added up", 2),
    ("08.7", lambda ranks, widths, vocabulary: len(ranks) * vocabulary, "nothing is guided", 1),
    ("08.7", steps(lambda s, rank: min(w for w in s if w > rank)), "is within it", 1),
    ("08.7", steps(lambda s, rank: min(w for w in s if w >= rank - 1)), "count from 1", 1),
    ("08.7", lambda *given: cost(*given) / len(given[0]), "all of them together", 1),
    ("08.7", steps(lambda s, rank: fits(s, rank) if rank <= s[-2] else s[-2]), "costs the whole vocabulary", 3),
    ("08.7", steps(lambda s, rank: fits(s, rank) if rank <= s[-2] else 0), "costs the whole vocabulary", 3),
    ("08.7", lambda *given: 10**9, "too many for ranks", 1),
    ("08.7", lambda *given: "few", "a number of candidates was expected, got str", 0),
    ("08.8", squares, "position 0 decides alone", 2),
    ("08.8", lambda s, v: ((s - v).norm(dim=-1) / v.norm(dim=-1)).mean(-1).argmax(), "the worst fit", 3),
    ("08.8", lambda states, vectors: 4, "4 is not the depth", 1),
    ("08.8", lambda states, vectors: states.mean((1, 2)), "a whole number of layers", 0),
    ("08.9", "b", "a: it was measured", 1),
    ("08.9", "abdf", "b: you have just read", 2),
    ("08.9", "acdf", "c: a codec that is known", 2),
    ("08.9", "af", "d: it says who does not have", 1),
    ("08.9", "adef", "e: which vectors go up", 2),
    ("08.9", {"a", "d"}, "f: it has no next step", 1),
    ("08.9", "adx", "letters from a to f were expected, got 'x'", 0),
    ("08.9", 3, "letters were expected, such as 'bc', got int", 0),
]
RIGHT = [
    ("08.1", differs(whole_length)),
    ("08.1", lambda *given: changed(*given).numpy()),
    ("08.2", lambda head, prefix, c: head(rows(prefix, c))[:, -1].numpy()),
    ("08.3", additive),
    ("08.3", lambda prefix, count: [shared(prefix, count)[0].int().numpy(), np.full(count, prefix)]),
    ("08.4", lambda *given: torch.tensor(decide(*given))),
    ("08.5", as_list),
    ("08.6", lambda *given: belief(*given).softmax(-1).log()),
    ("08.6", lambda *given: belief(*given).numpy()),
    ("08.7", lambda *given: np.int64(cost(*given))),
    ("08.8", cosines),
    ("08.8", lambda states, vectors: depth_of(states[:, 1:], vectors[1:])),
    ("08.9", ["a", "D", "f"]),
    ("08.9", "f, a, d"),
]
