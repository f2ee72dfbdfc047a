"""A vector for every token: its mean in random contexts, of as many tokens as an attacker may ask about."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .knowledge import Knowledge
from .study import WINDOW, Study, shelved, states, windows

NEVER = -1e4  # the score of a token of which no vector was seen


class Prototypes(NamedTuple):
    """Mean vectors [V, d] in random contexts, which of them were asked for [V], and how many tokens that took."""

    mean: Tensor
    there: Tensor
    sent: int


def bank(knowledge: Knowledge, depth: int, vocabulary: int, contexts: int = 1, spare: int | None = None) -> Prototypes:
    """The mean vector of every token in random contexts; what a row begins with is not counted.

    spare: how many tokens may be sent at most; where they do not do for all, the likeliest are asked about.
    """

    def make() -> Prototypes:
        draw, rows = torch.Generator().manual_seed(0), -(-vocabulary // (WINDOW - 1))
        many = rows * contexts if spare is None else min(rows * contexts, max(0, spare) // WINDOW)
        total, times = None, torch.zeros(vocabulary)
        for pass_ in range(-(-many // rows)):
            own = min(rows, many - rows * pass_)
            order = torch.randperm(vocabulary, generator=draw)
            if own < rows:
                likely = likeliest(knowledge, vocabulary)[: own * (WINDOW - 1)]
                order = likely[torch.randperm(len(likely), generator=draw)]
            order = torch.cat([order, order[: own * (WINDOW - 1) - len(order)]]).view(own, WINDOW - 1)
            ids = torch.cat([torch.randint(vocabulary, (own, 1), generator=draw), order], dim=1)
            found = states(knowledge, depth, ids, "a vector of every token")[:, 1:].flatten(0, 1)
            vectors = found.new_zeros(vocabulary, found.shape[1])
            vectors[order.flatten()] = found
            total = vectors if total is None else total.add_(vectors)
            times[order.flatten().unique()] += 1
        if total is None:  # not one row may be asked for
            total = torch.zeros(vocabulary, states(knowledge, depth, torch.zeros(1, 1, dtype=torch.long)).shape[-1])
        return Prototypes(total.div_(times.clamp_min(1)[:, None]), times > 0, many * WINDOW)

    return shelved(knowledge, ("bank", depth, vocabulary, contexts, spare), make)


def likeliest(knowledge: Knowledge, vocabulary: int) -> Tensor:
    """All token ids [V], those first that the attacker's texts have most often, then in the tokenizer's own order."""
    counts = torch.bincount(windows(knowledge, 10**9)[0].flatten(), minlength=vocabulary)
    return counts.argsort(descending=True, stable=True)


def spare(knowledge: Knowledge, learned: Study) -> int | None:
    """How many tokens may be sent after those of the texts; None where nobody counts."""
    return None if knowledge.queries is None or knowledge.budget is None else knowledge.budget - learned.sent


def drawn(found: Prototypes, learned: Study, shift: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Prototypes [V, d] drawn to what texts show of them, and where there is one [V].

    shift: what is taken off the texts' vectors; weight: how many occurrences in texts the random contexts count for.
    """
    seen = torch.bincount(learned.tokens, minlength=len(found.mean))[:, None]
    own = weight * found.there[:, None]
    mu = (found.mean * own).index_add_(0, learned.tokens, learned.vectors - shift).div_((own + seen).clamp_min(1e-9))
    return mu, found.there | (seen[:, 0] > 0)
