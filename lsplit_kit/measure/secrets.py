"""What an attack's beliefs about tokens say of a whole secret that was drawn from a public list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attacks.attack import Reconstruction
from ..data.canaries import ALPHABET, Canary, candidate, space
from ..errors import UnsupportedOption

MOST = 10_000  # secrets that are gone through one by one; of a longer list only the alphabet is known


def secret_log_prob(found: Reconstruction, canaries: Sequence[Canary], tokenizer: Any, before: int = 0) -> np.ndarray:
    """Natural-log probability [N] that an attack gave each secret, one canary a conversation; raises UnsupportedOption.

    The attacker knows the sentence around the secret, the list it was drawn from, and, from the wire's length, how many
    tokens it has. Beliefs at the secret's positions are multiplied, and divided by the sum over all secrets of the list
    with as many tokens; of lists longer than MOST, by that over all tokens of the alphabet, which bounds it from above,
    so that the result is never too large. An attack that only says tokens gets 0 or minus infinity. before: tokens in
    front of the text (a template's).
    """
    if len(canaries) != len(found.tokens):
        raise UnsupportedOption(f"There are {len(canaries)} canaries for {len(found.tokens)} conversations.")
    said = []
    for number, one in enumerate(canaries):
        start, ids = placed(one, tokenizer)
        at = torch.isin(found.positions[number], torch.arange(before + start, before + start + len(ids)))
        if int(at.sum()) != len(ids):
            raise UnsupportedOption(f"The attack does not read all positions of the secret in conversation {number}.")
        if found.log_probs is None:
            said.append(0.0 if torch.equal(found.tokens[number][at], ids) else -math.inf)
            continue
        beliefs = found.log_probs(number)[at].double()
        truth = float(beliefs.gather(1, ids[:, None]).sum())
        said.append(truth - _whole(beliefs, one, tokenizer))
    return np.minimum(np.array(said), 0.0)


def placed(canary: Canary, tokenizer: Any) -> tuple[int, Tensor]:
    """Where the secret's tokens begin in the sentence, and their ids [n]; a space before the secret may be in them."""
    return _placed(tokenizer, [canary.text], canary.start, [canary.end])[0]


def _placed(tokenizer: Any, texts: list[str], start: int, ends: list[int]) -> list[tuple[int, Tensor]]:
    coded, found = tokenizer(texts, return_offsets_mapping=True, add_special_tokens=False), []
    for ids, spans, end in zip(coded["input_ids"], coded["offset_mapping"], ends, strict=True):
        held = [i for i, (a, b) in enumerate(spans) if b > start and a < end]
        found.append((held[0], torch.tensor([ids[i] for i in held])))
    return found


def _whole(beliefs: Tensor, canary: Canary, tokenizer: Any) -> float:
    """Log of the probability that beliefs [n, V] give to all secrets together."""
    if space(canary.kind) <= MOST:
        front, back = canary.text[: canary.start], canary.text[canary.end :]
        ids = _listed(tokenizer, canary.kind, front, back)[len(beliefs)]
        return float(beliefs.gather(1, ids.T).sum(0).logsumexp(0))
    return float(beliefs[:, _spelled(tokenizer)].logsumexp(1).sum())


@lru_cache(maxsize=32)
def _listed(tokenizer: Any, kind: str, front: str, back: str) -> dict[int, Tensor]:
    """Token ids [m, n] of every secret of a list in this sentence, by their number of tokens n."""
    secrets, found = [candidate(kind, number) for number in range(space(kind))], {}  # type: ignore[var-annotated]
    ends = [len(front) + len(secret) for secret in secrets]
    for _, ids in _placed(tokenizer, [front + secret + back for secret in secrets], len(front), ends):
        found.setdefault(len(ids), []).append(ids)
    return {n: torch.stack(rows) for n, rows in found.items()}


@lru_cache(maxsize=4)
def _spelled(tokenizer: Any) -> Tensor:
    """The ids of tokens that hold nothing but the alphabet of codes, with or without a space in front."""
    texts = (tokenizer.decode([i]) for i in range(len(tokenizer)))
    return torch.tensor([i for i, text in enumerate(texts) if text.strip() and set(text.strip()) <= set(ALPHABET)])
