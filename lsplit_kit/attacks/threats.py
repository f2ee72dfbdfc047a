"""A few threat models by name, and the attacks of the ladder by name: what menus and recordings are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import UnsupportedOption
from ..wire.view import OBSERVERS, View
from .attack import Attack
from .knowledge import Knowledge
from .lda import PrototypeLDA
from .match import VocabMatch
from .nearest import NearestEmbedding
from .prior import PriorOnly
from .ridge import Ridge

LADDER = {cls.__name__: cls for cls in (PriorOnly, NearestEmbedding, Ridge, PrototypeLDA, VocabMatch)}
THREATS = {
    "public": "public weights, and text of its own",
    "no_weights": "text of its own, but no weights",
    "vocabulary": "the tokenizer alone",
}


def knowledge_of(threat: str, model: Any, tokenizer: Any, text: Sequence[str]) -> Knowledge:
    """What the attacker of a threat model in THREATS knows; raises UnsupportedOption for another one."""
    if threat not in THREATS:
        raise UnsupportedOption(f"Unknown knowledge {threat!r}; choose one of {', '.join(THREATS)}.")
    if threat == "public":
        return Knowledge(model, tokenizer, text=text)
    return Knowledge(None, tokenizer, head="none", tail="none", text=text if threat == "no_weights" else None)


def attack_of(name: str) -> Attack:
    """An attack of the ladder, not fitted yet; raises UnsupportedOption for a name that is not on it."""
    if name not in LADDER:
        raise UnsupportedOption(f"Unknown attack {name!r}; choose one of {', '.join(LADDER)}.")
    return LADDER[name]()


def allowed(name: str, observer: str, knowledge: Knowledge) -> None:
    """Raise NeedsKnowledge or UnsupportedOption where an attack of the ladder cannot run on what is known and seen.

    All of them read what goes up; the one that looks at no vector counts them there.
    """
    attack = attack_of(name)
    if observer not in OBSERVERS:
        raise UnsupportedOption(f"Unknown observer {observer!r}; choose one of {', '.join(OBSERVERS)}.")
    knowledge.grant(name, attack.requires)
    View(observer, {}, (), (), {}).check("up")
