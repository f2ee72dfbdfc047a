"""Attacks that read what comes down: each vector says which token the model puts next."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..split.graft import local_side
from ..wire.view import Heard, View
from .attack import Attack, Reconstruction
from .knowledge import Knowledge
from .probe import BEST
from .study import shelved


class Given(nn.Module):
    """Stands where head and body were, and hands on a tensor [B, T, d] that was received."""

    def __init__(self) -> None:
        super().__init__()
        self.received = torch.empty(0)

    def take_convention(self, layer: nn.Module, index: int, returns_tuple: bool) -> None:
        """Look, to the base class, like the layer that stood here."""
        self.returns_tuple = returns_tuple
        for name, value in {"attention_type": "full_attention", "is_sliding": False, "layer_type": None}.items():
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name) if value is None else value)

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> object:
        """What was received, whatever came from the embedding."""
        return (self.received, None) if self.returns_tuple else self.received


def tail_side(model: PreTrainedModel, start: int) -> PreTrainedModel:
    """The library's class with layers[start:], norm and LM head, behind a `Given`."""
    return local_side(model, 0, start, Given())


@torch.inference_mode()
def said(tail: PreTrainedModel, vectors: Tensor) -> Tensor:
    """Logits [T, V] that a `tail_side` makes of the vectors [T, d] of one conversation."""
    given = next(module for module in tail.modules() if isinstance(module, Given))
    given.received = vectors[None].to(tail.dtype)
    return tail(torch.zeros(1, len(vectors), dtype=torch.long), use_cache=False).logits[0].float()


class Ahead(Attack):
    """Base of attacks on the downlink: what came down at position p speaks of the token at p + 1.

    A reconstruction's positions are those of the tokens guessed. Of a prompt's positions it tells what the model
    expected there; of a reply's, what it said, the last token too, which never goes up. Beliefs are those of a token
    drawn at temperature 1. A subclass writes `_lens` and says with `layers_` how many layers stand behind it.
    """

    reads: str = "down"

    def _behind(self, knowledge: Knowledge, start: int) -> None:
        """Prepare norm, LM head and layers[start:] of the attacker's copy."""
        self.vocabulary_ = len(knowledge.tokenizer)
        self.tail_ = shelved(knowledge, ("tail", start), lambda: tail_side(knowledge.model, start))

    @abstractmethod
    def _lens(self, vectors: Tensor) -> Tensor:
        """Vectors [T, d] as what the attacker has of the tail shall take them."""

    def beliefs(self, vectors: Tensor) -> Tensor:
        """Log probabilities [T, V] of the token behind each of a conversation's vectors [T, d]."""
        logits = said(self.tail_, self._lens(vectors.float()))
        return logits[:, : self.vocabulary_].log_softmax(-1)

    def _reconstruct(self, view: View) -> Reconstruction:
        heard: list[Heard] = [c.down for c in view.conversations()]
        top = [self.beliefs(h.vectors).topk(BEST).indices for h in heard]
        return Reconstruction(
            type(self).__name__, view.observer, [t[:, 0] for t in top], top, [h.positions + 1 for h in heard],
            lambda number: self.beliefs(heard[number].vectors), self.cost_,
        )  # fmt: skip
