"""A pipeline's text encoder as an attacker uses it: rows of a text, and of many candidates for its next token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedOption

AT_ONCE = 256  # rows of candidates in one pass
CLEARLY = 2.0  # times as far as another layer's row the usual one's has to be


class Encoder:
    """The public text encoder; of two, the first: its part of a row is enough.

    begin, end, pad: the token ids around a text. table [V, d]: its embeddings. layer: which of its layers gives the
    rows on the wire, as `settle` found. Raises UnsupportedOption for encoders that no token begins.
    """

    def __init__(self, pipe: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = pipe.text_encoder, tokenizer
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise UnsupportedOption("This text encoder's texts have no token that begins and one that ends them.")
        self.begin, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.pad = self.end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.table = self.model.get_input_embeddings().weight.detach().float()
        self.vocabulary = len(tokenizer)
        self.table = self.table[: self.vocabulary]
        self.width = self.table.shape[1]
        self.longest = int(tokenizer.model_max_length)
        # Stable Diffusion takes the last layer, its larger kin with two encoders the one before
        self.layer = self.usual = "last layer" if getattr(pipe, "text_encoder_2", None) is None else "layer -1"

    def check(self) -> None:
        """Raise UnsupportedOption unless a row depends on nothing that follows it."""
        ids = torch.tensor([[self.begin, 2, 3, 4, self.end], [self.begin, 2, 5, 6, self.end]]) % self.vocabulary
        ids[:, 0], ids[:, -1] = self.begin, self.end
        with torch.inference_mode():
            rows = self._run(ids)["last layer"]
        if not torch.allclose(rows[0, :2], rows[1, :2], atol=1e-5):
            raise UnsupportedOption("This text encoder looks ahead, so its rows cannot be matched one by one.")

    @torch.inference_mode()
    def settle(self, rows: Tensor) -> None:
        """Find which layer the rows [T, d] are from: the first one, of a token that everybody knows, tells."""
        made = self._run(torch.tensor([[self.begin, self.end]]))
        away = {name: float((out[0, 0] - rows[0][: self.width]).norm()) for name, out in made.items()}
        best = min(away, key=lambda name: away[name])
        self.layer = best if away[self.usual] > CLEARLY * away[best] else self.usual

    def rows(self, ids: Tensor) -> Tensor:
        """The rows [T, d] of a text [T]."""
        return self._run(ids[None])[self.layer][0]

    def row(self, ids: Tensor) -> Tensor:
        """The last row [d] of an unfinished text [t]."""
        return self.rows(ids)[-1]

    def candidates(self, before: Tensor, ids: Tensor) -> Tensor:
        """The rows [n, d] of candidates [n], each as the token behind `before` [t].

        As many as the encoder takes stand side by side in one pass, each looking at the text and at itself.
        """
        t = len(before)
        per = self.longest - t
        count = -(-len(ids) // per)
        padded = torch.cat([ids, ids[:1].expand(count * per - len(ids))]).view(count, per)
        low = torch.finfo(self.model.dtype).min
        mask = torch.full((self.longest, self.longest), low, dtype=self.model.dtype)
        mask[:t, :t].triu_(1)
        mask[t:, :t] = 0
        mask[t:, t:].fill_diagonal_(0)
        at = torch.cat([torch.arange(t), torch.full((per,), t)])[None]
        found = []
        for part in padded.split(AT_ONCE):
            whole = torch.cat([before.expand(len(part), -1), part], dim=1)
            out = self._run(whole, attention_mask=mask.expand(len(part), 1, -1, -1), position_ids=at)
            found.append(out[self.layer][:, t:].flatten(0, 1))
        return torch.cat(found)[: len(ids)]

    def words(self, ids: Tensor) -> str:
        """The text of tokens [T]."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _run(self, ids: Tensor, **options: Any) -> dict[str, Tensor]:
        """The rows [B, T, d] as pipelines take them: of the last layer, or of layers before it, normed or not."""
        out = self.model(ids, output_hidden_states=True, **options)
        inner = getattr(self.model, "text_model", self.model)
        norm = getattr(inner, "final_layer_norm", None)
        found = {"last layer": out.last_hidden_state.float()}
        for back in range(2, min(4, len(out.hidden_states)) + 1):
            hidden = out.hidden_states[-back]
            found[f"layer {1 - back}"] = hidden.float()
            if norm is not None:
                found[f"layer {1 - back}, normed"] = norm(hidden).float()
        return found
