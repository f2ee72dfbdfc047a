"""What posteriors say of the true tokens, and how many candidates they leave, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedOption

_FIRST = 256  # candidates that are sorted of every row; the whole vocabulary only where these do not reach the mass


class Read(NamedTuple):
    """What a posterior says of the true tokens, each [N]: natural-log probability, rank, and mass.

    rank: how many tokens are at least as likely as the truth, itself included (1 is best, ties count against the
    attack). mass: the probability of those tokens together.
    """

    log_prob: np.ndarray
    rank: np.ndarray
    mass: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether the truth alone was the best guess, bool [N]."""
        return self.rank == 1


def read(log_probs: Iterable[Tensor], truth: Tensor | np.ndarray) -> Read:
    """What log probabilities [n, V], chunk by chunk, say of the true tokens [N]; raises UnsupportedOption."""
    tokens, parts, start = torch.as_tensor(truth).long(), [], 0
    for chunk in log_probs:
        ids = tokens[start : (start := start + len(chunk))]
        if len(ids) < len(chunk):
            break
        true = of_truth(chunk, ids)[:, None]
        above = chunk >= true
        mass = chunk.exp().mul_(above).sum(1, dtype=torch.float64).clamp_(max=1)
        parts.append((true[:, 0].double().numpy(), above.sum(1).numpy(), mass.numpy()))
    if not parts or start != len(tokens):
        raise UnsupportedOption(f"There are {len(tokens)} true tokens for {start} or more rows of probabilities.")
    return Read(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def of_truth(chunk: Tensor, ids: Tensor) -> Tensor:
    """The value [n] that each row of a chunk [n, V] has for its true token; raises UnsupportedOption."""
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < chunk.shape[1]:
        raise UnsupportedOption(f"A true token lies outside the vocabulary of {chunk.shape[1]}.")
    return chunk.gather(1, ids[:, None])[:, 0]


def set_sizes(log_probs: Iterable[Tensor], threshold: float, own: bool = False) -> np.ndarray:
    """How many tokens of each row are candidates, int [N]: those whose mass is at most the threshold.

    A token's mass is the probability of the other tokens that are at least as likely; with `own` its own probability
    is added, as in `Read.mass`. An infinite threshold (too little calibration text) leaves the whole vocabulary.
    """
    return np.concatenate([_sizes(chunk, threshold, own) for chunk in log_probs])


def _sizes(chunk: Tensor, threshold: float, own: bool) -> np.ndarray:
    vocabulary = chunk.shape[1]
    if threshold >= 1:
        return np.full(len(chunk), vocabulary)
    narrow = min(_FIRST, vocabulary)
    # topk, not numpy's partition: most of a vocabulary has one and the same probability, at which that is slow.
    sizes = _within(chunk.topk(narrow).values.numpy(), threshold, own)
    # One row at a time: sorting is most of the work, and a chunk in fp64 would be most of the memory.
    for row in np.flatnonzero(sizes < 0):
        sizes[row] = _within(chunk[row : row + 1].numpy(), threshold, own)[0]
    return np.where(sizes < 0, vocabulary, sizes)


def _within(log_probs: np.ndarray, threshold: float, own: bool) -> np.ndarray:
    """How many of the values of each row have a mass within the threshold; -1 where all have."""
    falling = np.sort(log_probs, 1)[:, ::-1]
    chances = np.exp(falling, dtype=np.float64)
    over = chances.cumsum(1) - (0 if own else chances) > threshold
    # The first value that is too much, and all that are equal to it, are no candidates.
    first = np.take_along_axis(falling, over.argmax(1)[:, None], 1)
    return np.where(over.any(1), (falling > first).sum(1), -1)
