"""What an attacker works out before it sees a prompt: hidden vectors of its own texts and of every token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import NeedsKnowledge
from ..progress import progress
from ..quantization import codec, loses
from ..split.graft import head_side
from ..wire.view import View
from .knowledge import Knowledge

WINDOW, TOKENS, HELD = 64, 50_000, 0.1
Made = TypeVar("Made")


def shelved(knowledge: Knowledge, key: Any, make: Callable[[], Made]) -> Made:
    """What `make` returned the first time: the attacks of a ladder share what they need."""
    if key not in knowledge.shelf:
        knowledge.shelf[key] = make()
    return knowledge.shelf[key]


@dataclass(frozen=True)
class Place:
    """Where vectors were taken: behind `depth` layers, after the codec `spec` ("" where the attacker does not know)."""

    depth: int
    spec: str

    @classmethod
    def of(cls, view: View, knowledge: Knowledge, direction: str = "up") -> Place:
        """The place of a view's vectors in a direction; raises NeedsKnowledge when the cut is not known."""
        knowledge.grant("Fitting to a cut", ("layer",))
        spec = view.manifest[direction] if knowledge.codec else ""
        return cls(view.manifest["layers"][direction == "down"], spec)

    @property
    def exact(self) -> bool:
        """Whether vectors crossed as they were."""
        return not self.spec or not loses(self.spec, torch.float32)

    def through(self, vectors: Tensor) -> Tensor:
        """Vectors [..., T, d] as they arrive, each row [T, d] encoded as one tensor of its own."""
        if self.exact:
            return vectors
        wire, flat = codec(self.spec), vectors.float().reshape(-1, *vectors.shape[-2:])
        return torch.cat([wire.decode(wire.encode(row[None])) for row in flat]).reshape(vectors.shape)


def runner(knowledge: Knowledge, depth: int, dtype: torch.dtype = torch.bfloat16) -> Callable[[Tensor], Tensor]:
    """Token ids [B, T] -> hidden tensors [B, T, d] behind `depth` layers: by queries if it may, else by its copy."""
    if knowledge.queries is not None:
        ask = knowledge.queries
        return lambda ids: ask(ids).float()
    base = shelved(knowledge, ("copy", depth, dtype), lambda: head_side(knowledge.model, depth).to(dtype))
    return lambda ids: base(ids, use_cache=False).last_hidden_state.float()


@torch.inference_mode()
def states(
    knowledge: Knowledge, depth: int, ids: Tensor, what: str = "", dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Hidden tensors [N, T, d] of ids [N, T], float32, computed in `dtype`; what: the title of a progress bar."""
    run = runner(knowledge, depth, dtype)
    parts = ids.split(16)
    return torch.cat([run(part) for part in progress(parts, what, least=20 if what else len(parts) + 1)])


@dataclass(frozen=True)
class Study:
    """Vectors [n, d] and tokens [n] of the attacker's texts, to fit with and, of other documents, to calibrate with."""

    vectors: Tensor
    tokens: Tensor
    held_vectors: Tensor
    held_tokens: Tensor
    windows: tuple[Tensor, Tensor, Tensor, Tensor]  # the same with their neighbours: [N, T, d], [N, T], twice
    sent: int  # tokens that went through the head for it


def study(knowledge: Knowledge, place: Place, count: int = TOKENS) -> Study:
    """The vectors at a place of about `count` tokens of the attacker's texts, first positions left out.

    With queries that are counted, of no more than half of them. Raises NeedsKnowledge where these are too few.
    """
    if knowledge.queries is not None and knowledge.budget is not None:
        least = 3 * WINDOW  # to fit with, to calibrate with, and one for tokens that the texts lack
        if knowledge.budget < least:
            raise NeedsKnowledge(f"{knowledge.budget} tokens of queries are too few: an attack begins with {least}.")
        count = min(count, max(WINDOW, round(knowledge.budget / (2 + 2 * HELD))))

    def make() -> Study:
        learn, held = windows(knowledge, count)
        found: list[tuple[Tensor, Tensor]] = []
        for ids in (learn, held):
            key = ("states", place.depth, count, len(found))
            plain = shelved(knowledge, key, partial(states, knowledge, place.depth, ids, "hidden vectors of own texts"))
            vectors = place.through(plain)
            found.append((vectors[:, 1:], ids[:, 1:]))
        (a, b), (c, d) = found
        return Study(
            a.flatten(0, 1), b.flatten(), c.flatten(0, 1), d.flatten(), (a, b, c, d), learn.numel() + held.numel()
        )

    return shelved(knowledge, ("study", place, count), make)


def windows(knowledge: Knowledge, count: int = TOKENS) -> tuple[Tensor, Tensor]:
    """Token ids [N, WINDOW] to fit with and to calibrate with; no passage gives to both, if there are enough of them.

    Raises NeedsKnowledge when the attacker's text is too short for both.
    """
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    every = min(round(1 / HELD), len(knowledge.text or ()))
    for number, passage in enumerate(knowledge.text or ()):
        ids = knowledge.tokenizer(passage, return_tensors="pt", verbose=False)["input_ids"][0]
        whole = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
        parts[every > 1 and number % every == every - 1].append(whole)
    learn, held = (torch.cat(p) if p else torch.empty(0, WINDOW, dtype=torch.long) for p in parts)
    if not (len(learn) and len(held)):
        both = torch.cat([learn, held])
        kept = max(1, round(len(both) * HELD))
        learn, held = both[:-kept], both[-kept:]
    if not len(learn):
        raise NeedsKnowledge(f"The attacker's text is too short: it needs two pieces of {WINDOW} tokens.")
    order = torch.Generator().manual_seed(0)
    learn, held = (p[torch.randperm(len(p), generator=order)] for p in (learn, held))
    return learn[: max(1, count // WINDOW)], held[: max(1, round(count * HELD) // WINDOW)]


def counted(tokens: Tensor, vocabulary: int, more: float = 0.1) -> Tensor:
    """Log probabilities [V] of tokens by how often they occur, each `more` times more than seen."""
    counts = torch.bincount(tokens, minlength=vocabulary).double() + more
    return (counts / counts.sum()).log().float()
