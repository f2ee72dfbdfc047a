"""Running many candidates for the next token at once, behind text that is already known: the library's own forward."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..split.graft import head_side
from .knowledge import Knowledge
from .study import shelved

AT_ONCE = 256  # candidates of one row in one pass: each attends to the known text and to itself


class Tries:
    """The attacker's model behind the known text of B rows, all of one length.

    One cache serves the whole model, which predicts what comes next, and its first layers, which try candidates. Who
    has the head alone tries as well, and predicts nothing.
    """

    def __init__(self, knowledge: Knowledge, depth: int) -> None:
        self.head = shelved(knowledge, ("copy", depth, torch.float32), lambda: head_side(knowledge.model, depth))
        self.rough = shelved(
            knowledge, ("copy", depth, torch.bfloat16), lambda: head_side(knowledge.model, depth).to(torch.bfloat16)
        )
        self.predicts = knowledge.has("language model")
        self.model: Any = knowledge.model if self.predicts else self.head
        self.depth, self.length = depth, 0
        self.cache: Any = DynamicCache(config=self.model.config)

    @torch.inference_mode()
    def commit(self, ids: Tensor) -> Tensor | None:
        """Append ids [B, n]; log probabilities [B, V] of what follows, as the whole model says, None without one."""
        at = torch.arange(self.length, self.length + ids.shape[1])[None].expand(len(ids), -1)
        last = {"logits_to_keep": 1} if self.predicts else {}
        out = self.model(ids, past_key_values=self.cache, position_ids=at, use_cache=True, **last)
        self.length += ids.shape[1]
        if not self.predicts:
            return None
        return out.logits[:, -1].float().log_softmax(-1)

    @torch.inference_mode()
    def states(self, candidates: Tensor, rows: list[int] | None = None, rough: bool = False) -> Tensor:
        """Hidden tensors [B, C, d] of candidates [B, C], each as the next token.

        rows: which ones, if not all; rough: in bfloat16, which finds the few that are worth an exact look.
        """
        return torch.cat([self._some(part, rows, rough) for part in candidates.split(AT_ONCE, dim=1)], dim=1)

    def _some(self, candidates: Tensor, rows: list[int] | None, rough: bool) -> Tensor:
        batch, count = candidates.shape
        head, dtype = (self.rough, torch.bfloat16) if rough else (self.head, torch.float32)
        own = torch.full((count, count), torch.finfo(dtype).min, dtype=dtype)
        own.fill_diagonal_(0)
        mask = torch.cat([own.new_zeros(count, self.length), own], dim=1)[None, None].expand(batch, 1, -1, -1)
        at = torch.full((batch, count), self.length)
        cache: Any = DynamicCache(config=self.head.config)
        # layers of its own around the same keys and values, which an update does not change but joins to new ones
        cache.layers = [copy.copy(layer) for layer in self.cache.layers[: self.depth]]
        if rows is not None and self.length:
            cache.batch_select_indices(torch.tensor(rows))
        for layer in cache.layers if rough and self.length else ():
            layer.keys, layer.values, layer.dtype = layer.keys.to(dtype), layer.values.to(dtype), dtype
        out = head(candidates, attention_mask=mask, position_ids=at, past_key_values=cache, use_cache=True)
        return out.last_hidden_state

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        if self.length:
            self.cache.batch_select_indices(torch.tensor(rows))
