"""A few threat models by name, and the attacks of the ladder by name: what menus and recordings are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedOption
from ..split.graft import head_side
from ..wire.view import OBSERVERS, View
from .attack import Attack
from .knowledge import Knowledge
from .lda import PrototypeLDA
from .logit_lens import LogitLens
from .match import VocabMatch
from .nearest import NearestEmbedding
from .prior import PriorOnly
from .ridge import Ridge
from .run_tail import RunTail
from .tuned_lens import TunedLens

LADDER = {cls.__name__: cls for cls in (PriorOnly, NearestEmbedding, Ridge, PrototypeLDA, VocabMatch)}
DOWNWARD = {cls.__name__: cls for cls in (PriorOnly, LogitLens, TunedLens, RunTail)}
LADDERS = {"up": LADDER, "down": DOWNWARD}
ATTACKS = LADDER | DOWNWARD
QUERIES = 20_000  # tokens that who has no weights may send through the learner's head
THREATS = {
    "public": "public weights, and text of its own",
    "queries": f"no weights, but text and {QUERIES:,} tokens of queries",
    "no_weights": "text of its own, but no weights",
    "vocabulary": "the tokenizer alone",
}


def knowledge_of(threat: str, model: Any, tokenizer: Any, text: Sequence[str], depth: int = 0) -> Knowledge:
    """What the attacker of a threat model in THREATS knows; raises UnsupportedOption for another one.

    depth: of the learner's head, which answers queries.
    """
    if threat not in THREATS:
        raise UnsupportedOption(f"Unknown knowledge {threat!r}; choose one of {', '.join(THREATS)}.")
    if threat == "public":
        return Knowledge(model, tokenizer, text=text)
    if threat == "queries":
        ask = oracle(model, depth)
        return Knowledge(None, tokenizer, head="none", tail="none", text=text, queries=ask, budget=QUERIES)
    return Knowledge(None, tokenizer, head="none", tail="none", text=text if threat == "no_weights" else None)


def oracle(model: Any, depth: int) -> Callable[[Tensor], Tensor]:
    """A learner's head as who may send prompts through it sees it: token ids [B, T] -> hidden tensors [B, T, d]."""
    head: list[Any] = []

    def ask(ids: Tensor) -> Tensor:
        head[:] = head or [head_side(model, depth)]
        with torch.inference_mode():
            return head[0](ids, use_cache=False).last_hidden_state

    return ask


def attack_of(name: str, direction: str = "up") -> Attack:
    """An attack on what crosses in a direction, not fitted yet; raises UnsupportedOption for one that is not on it."""
    if name not in ATTACKS:
        raise UnsupportedOption(f"Unknown attack {name!r}; choose one of {', '.join(ATTACKS)}.")
    if name not in LADDERS[direction]:
        ways = {"up": "what goes up", "down": "what comes down"}
        raise UnsupportedOption(f"{name} reads {ways[ATTACKS[name].reads]}, not {ways[direction]}.")
    return PriorOnly(ahead=direction == "down") if name == "PriorOnly" else LADDERS[direction][name]()


def direction_of(name: str, observer: str) -> str:
    """The direction that an attack is about; the one that looks at no vector guesses at what the observer sees."""
    if name in LADDER and name in DOWNWARD:
        return "down" if OBSERVERS.get(observer) == ("down",) else "up"
    return "down" if name in DOWNWARD else "up"


def allowed(name: str, observer: str, knowledge: Knowledge, direction: str = "up") -> None:
    """Raise NeedsKnowledge or UnsupportedOption where an attack on a direction cannot run on what is known and seen.

    The attack that looks at no vector counts them, in that direction.
    """
    attack = attack_of(name, direction)
    if observer not in OBSERVERS:
        raise UnsupportedOption(f"Unknown observer {observer!r}; choose one of {', '.join(OBSERVERS)}.")
    knowledge.grant(name, attack.requires)
    View(observer, {}, (), (), {}).check(direction)
