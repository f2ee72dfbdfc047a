"""An unknown cut is found from how a text begins: its vectors are those of known or likely tokens at one depth only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import NeedsKnowledge
from ..split.graft import head_side
from ..wire.view import View
from .channel import NEAR, alike
from .knowledge import Knowledge
from .record import template
from .study import Place, shelved

AT_ONCE = 256
STRANGE = 0.5  # a relative error of a first token from which on it is another model's
CLEAR = 0.5  # of the next depth's error, at which one vector tells the depth
SURE = 3.0  # standard errors by which the next depth's error has to be larger on average, where many vectors tell it


def place_of(view: View, knowledge: Knowledge, direction: str) -> Place:
    """Where a view's vectors were taken, found if it is not known; raises NeedsKnowledge where that is not clear."""
    if knowledge.layer:
        return Place.of(view, knowledge, direction)
    spec = view.manifest[direction] if knowledge.codec else ""
    first = _beginnings(view, direction)[0][0].numpy().tobytes()
    away: Tensor = shelved(knowledge, ("misfit", direction, first), lambda: _misfits(view, knowledge, direction))
    usual = away.mean(1)
    best, second = (int(i) for i in usual.topk(2, largest=False).indices)
    if away.shape[1] == 1 and usual[best] > STRANGE:
        raise NeedsKnowledge(
            f"No cut of this model gives these vectors, the nearest is {usual[best]:.0%} of their length away; "
            "the layer has to be known."
        )
    if not _clear(away[best], away[second]):
        raise NeedsKnowledge(
            f"Cuts behind {best} and {second} layers give these vectors about as well ({usual[best]:.1%} and "
            f"{usual[second]:.1%} of their length away); the layer has to be known."
        )
    return Place(best, spec)


def _clear(best: Tensor, second: Tensor) -> bool:
    """Whether errors [n] at one depth are smaller than those at another, position by position."""
    if len(best) == 1:
        return bool(best < CLEAR * second)
    more = second - best
    return bool(more.mean() > SURE * more.std() / len(more) ** 0.5)


def _beginnings(view: View, direction: str) -> list[Tensor]:
    """The vectors [n, d] with which conversations begin, at positions 0 to n - 1."""
    found = []
    for heard in (c.up if direction == "up" else c.down for c in view.conversations()):
        count = int((heard.positions == torch.arange(len(heard.positions))).cumprod(0).sum())
        found += [heard.vectors[:count]] if count else []
    if not found:
        raise NeedsKnowledge(
            "The cut is found by a text's first vector, and none was heard; the layer has to be known."
        )
    return found


def misfit(view: View, knowledge: Knowledge, direction: str = "up") -> Tensor:
    """|F_k - h| / |h| at every depth k [n + 1]: of the template's tokens if they fit somewhere, else of a first token.

    F_k goes through the codec, where it is known. Raises NeedsKnowledge when the attacker has no weights to run, or
    nobody heard how a text begins.
    """
    return _misfits(view, knowledge, direction).mean(1)


@torch.inference_mode()
def _misfits(view: View, knowledge: Knowledge, direction: str) -> Tensor:
    """The misfit at every depth by position [n + 1, T], of all the template's or of the first one alone."""
    knowledge.grant("Finding the cut", ("tokenizer", "head weights", "language model"))
    begun, wire = _beginnings(view, direction), Place(0, view.manifest[direction] if knowledge.codec else "")
    before = template(knowledge.tokenizer)[0] if knowledge.template else torch.empty(0, dtype=torch.long)
    if len(before) > 1:
        found = wire.through(_all_depths(knowledge, before[None])[:, 0])
        for vectors in (v[: len(before)] for v in begun if len(v) >= len(before)):
            away = (found - vectors).norm(dim=-1) / vectors.norm(dim=-1)
            if alike(found[away.mean(1).argmin()], vectors):
                return away
    first, nearest, kept = begun[0][0], torch.empty(0), torch.empty(0)
    for some in torch.arange(len(knowledge.tokenizer)).split(AT_ONCE):
        found = _all_depths(knowledge, some[:, None])[:, :, 0]
        away = (found - first).norm(dim=-1)
        if len(nearest):
            found, away = torch.cat([kept, found], dim=1), torch.cat([nearest, away], dim=1)
        nearest, rows = away.topk(min(NEAR, away.shape[1]), largest=False)
        kept = found.gather(1, rows[:, :, None].expand(-1, -1, found.shape[2]))
    sent = wire.through(kept.flatten(0, 1)[:, None]).view_as(
        kept
    )  # each by itself, as the codec may take them together
    return ((sent - first).norm(dim=-1) / first.norm()).min(1, keepdim=True).values


def _all_depths(knowledge: Knowledge, ids: Tensor) -> Tensor:
    """Hidden tensors [n + 1, B, T, d] behind 0 to n layers."""
    model: Any = knowledge.model
    layers = model.config.get_text_config().num_hidden_layers
    whole = shelved(knowledge, ("copy", layers, torch.float32), lambda: head_side(model, layers))
    out = whole(ids, use_cache=False, output_hidden_states=True)
    return torch.stack([*out.hidden_states[:layers], out.last_hidden_state])
