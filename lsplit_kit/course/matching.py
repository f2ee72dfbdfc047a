"""What chapter 08 searches with: a head as a function, and candidates behind a text, ordered by a language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..attacks.knowledge import Knowledge
from ..attacks.record import template
from ..attacks.recorded import Recorded
from ..attacks.tries import Tries
from ..quantization import codec
from ..split.graft import head_side


def head_of(model: Any, depth: int) -> Callable[[Tensor], Tensor]:
    """The first `depth` layers of a model as a function from ids [B, T] to hidden vectors [B, T, d]."""
    base = head_side(model, depth)

    @torch.inference_mode()
    def head(ids: Tensor) -> Tensor:
        return base(ids, use_cache=False).last_hidden_state

    return head


@torch.inference_mode()
def every_depth(model: Any, ids: Tensor) -> Tensor:
    """Hidden vectors [n + 1, T, d] of ids [T] behind 0 to n layers."""
    layers = model.config.num_hidden_layers
    out = head_side(model, layers)(ids[None], use_cache=False, output_hidden_states=True)
    return torch.stack([*out.hidden_states[:layers], out.last_hidden_state])[:, 0]


def chat_of(found: Recorded, number: int, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """Of a recording's chat by number: its vectors up behind the template's known beginning [T, d], that beginning."""
    assert found.capture is not None, "only its reports are shipped"
    known = template(tokenizer)[0]
    return found.capture.view("eavesdrop_up").conversations()[number].up.vectors[len(known) :], known


class Searcher:
    """Candidates behind a text: `order` says which are likely, `tried` what vectors they have after the wire's codec.

    Each text has to go on from the one asked about before, or the keys and values are worked out anew.
    """

    def __init__(self, model: Any, tokenizer: Any, depth: int, spec: str = "") -> None:
        self.knowledge, self.depth = Knowledge(model, tokenizer), depth
        self.codec = codec(spec) if spec else None
        self._begin()

    def _begin(self) -> None:
        self.tries, self.text = Tries(self.knowledge, self.depth), torch.empty(0, dtype=torch.long)
        self.expected = torch.empty(0)

    def _go_on(self, prefix: Tensor) -> None:
        if not torch.equal(prefix[: len(self.text)], self.text):
            self._begin()
        if len(prefix) > len(self.text):
            self.expected = self.tries.commit(prefix[None, len(self.text) :])[0]
            self.text = prefix.clone()

    def log_prior(self, prefix: Tensor) -> Tensor:
        """What the language model expects behind a prefix of one token or more: log probabilities [V]."""
        self._go_on(prefix)
        return self.expected

    def order(self, prefix: Tensor) -> Tensor:
        """All ids [V], the likeliest next token first."""
        return self.log_prior(prefix).argsort(descending=True)

    def tried(self, prefix: Tensor, candidates: Tensor) -> Tensor:
        """Vectors [C, d] of candidates [C] as the next token, all in one pass behind one prefix."""
        self._go_on(prefix)
        found = self.tries.states(candidates[None])[0]
        return found if self.codec is None else self.codec.decode(self.codec.encode(found[None]))[0]
