"""An unknown cut is found from one vector: only at the right depth does a known or likely token give it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import NeedsKnowledge
from ..split.graft import head_side
from ..wire.view import View
from .knowledge import Knowledge
from .record import template
from .study import Place, shelved

AT_ONCE, SURE = 256, 0.05
STRANGE = 0.5  # a relative error of known text from which on it is another text


def place_of(view: View, knowledge: Knowledge, direction: str) -> Place:
    """Where a view's vectors were taken, found out if it is not known; raises NeedsKnowledge where nothing fits."""
    if knowledge.layer:
        return Place.of(view, knowledge, direction)
    spec = view.manifest[direction] if knowledge.codec else ""
    first = _beginning(view, direction)[0].numpy().tobytes()
    away: Tensor = shelved(knowledge, ("misfit", direction, first), lambda: misfit(view, knowledge, direction))
    if away.min() > STRANGE:
        raise NeedsKnowledge(
            f"No cut of this model gives these vectors, the nearest is {away.min():.0%} of their length away; "
            "the layer has to be known."
        )
    return Place(int(away.argmin()), spec)


def _beginning(view: View, direction: str) -> Tensor:
    """The vectors [n, d] with which a conversation begins, at positions 0 to n - 1."""
    for heard in (c.up if direction == "up" else c.down for c in view.conversations()):
        count = int((heard.positions == torch.arange(len(heard.positions))).cumprod(0).sum())
        if count:
            return heard.vectors[:count]
    raise NeedsKnowledge("The cut is found by a text's first vector, and none was heard; the layer has to be known.")


@torch.inference_mode()
def misfit(view: View, knowledge: Knowledge, direction: str = "up") -> Tensor:
    """|F_k - h| / |h| at every depth k [n + 1]: of the template's tokens if they fit somewhere, else of a first token.

    Raises NeedsKnowledge when the attacker has no weights to run, or nobody heard how a text begins.
    """
    knowledge.grant("Finding the cut", ("tokenizer", "head weights", "language model"))
    vectors = _beginning(view, direction)
    before = template(knowledge.tokenizer)[0] if knowledge.template else torch.empty(0, dtype=torch.long)
    if 1 < len(before) <= len(vectors):
        found = _all_depths(knowledge, before[None])[:, 0]
        away = ((found - vectors[: len(before)]).norm(dim=-1) / vectors[: len(before)].norm(dim=-1)).mean(-1)
        if away.min() < SURE:
            return away
    best = torch.full((knowledge.model.config.get_text_config().num_hidden_layers + 1,), float("inf"))
    for some in torch.arange(len(knowledge.tokenizer)).split(AT_ONCE):
        found = _all_depths(knowledge, some[:, None])[:, :, 0]
        away = (found - vectors[0]).norm(dim=-1) / vectors[0].norm()
        best = torch.minimum(best, away.min(dim=-1).values)
    return best


def _all_depths(knowledge: Knowledge, ids: Tensor) -> Tensor:
    """Hidden tensors [n + 1, B, T, d] behind 0 to n layers."""
    model: Any = knowledge.model
    layers = model.config.get_text_config().num_hidden_layers
    whole = shelved(knowledge, ("copy", layers, torch.float32), lambda: head_side(model, layers))
    out = whole(ids, use_cache=False, output_hidden_states=True)
    return torch.stack([*out.hidden_states[:layers], out.last_hidden_state])
