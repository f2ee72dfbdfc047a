"""The prompt out of its embeddings: a causal text encoder is matched token by token, like a language model's head.

The encoders of Stable Diffusion look back only, so that a row depends on the tokens up to it and on nothing else.
Tokens are tried behind the text read so far until one gives the row that crossed.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...quantization import codec, loses
from ...wire.view import View
from ..attack import Attack, Reconstruction
from ..knowledge import Knowledge
from ..search import BEST, Search
from ..study import counted, shelved
from .encoder import Encoder
from .run import runs

SURE = 3.0  # times the error of the known first row: what is farther away is another token
APART = 2.0  # times as far as the best one has the second to be; if it is nearer, both are put through the codec
LOOKS = (0, 32, 256, 1024)  # the nearest candidates that are, in turn, until one falls on what crossed
ENDS = 1.5  # times the largest error of the rows read so far, for all rows behind an end
FALLS = 0.25  # of the first row's error: so near is what crossed
STRANGE = 0.5  # relative error of the first row from which on it is no text's: an empty prompt that became zeros
SAME = 0.99  # share of values that have to come out of the codec alike when the whole prompt is put through it


class PromptMatch(Attack):
    """argmin_v |F(prefix, v) - row| over the vocabulary, position by position, up to the end of the text.

    widths: how many likely tokens are tried before all are; narrow vocabularies are tried whole at once. tolerance: a
    row that comes so near, relative to |row|, is taken where the codec loses nothing. Notes say of how many prompts the
    recovered text gives, through the same codec, just what crossed (`verified`; "not checked" by who does not know the
    codec), and what the negative prompts were.
    """

    requires: ClassVar[tuple[str, ...]] = ("tokenizer", "text encoder")

    def __init__(self, widths: tuple[int, ...] = (256, 1024, 4096), tolerance: float = 1e-4) -> None:
        self.widths, self.tolerance = widths, tolerance

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self.encoder_ = Encoder(knowledge.model, knowledge.tokenizer)
        self.encoder_.check()
        self.spec_ = view.manifest["up"] if knowledge.codec else ""
        self.exact_ = bool(self.spec_) and not loses(self.spec_, torch.float32)
        vocabulary = self.encoder_.vocabulary
        self.log_prior_ = counted(words_of(knowledge), vocabulary)
        self.rows_ = self.encoder_.table

    @torch.inference_mode()
    def _reconstruct(self, view: View) -> Reconstruction:
        tokens, tops, positions, verified, negative = [], [], [], 0, []
        for run in runs(view):
            text = run.text.float()
            self.encoder_.settle(text[-1])
            read = [self._row(text, number) for number in range(len(text))]
            verified += bool(self.spec_) and self._verified(text, [ids for ids, _ in read])
            pictures = len(text) // 2 if len(text) % 2 == 0 and _negative(text) else 0
            negative += [self.encoder_.words(ids) for ids, _ in read[:pictures]]
            for ids, top in read[pictures:]:
                tokens.append(ids)
                tops.append(top)
                positions.append(torch.arange(len(ids)))
        checked = f"{verified} of {len(runs(view))}" if self.spec_ else "not checked"
        notes: dict[str, Any] = {"rows": self.encoder_.layer, "verified": checked}
        if any(negative):
            notes["negative prompts"] = "; ".join(list(dict.fromkeys(filter(None, negative)))[:3])
        return Reconstruction(type(self).__name__, view.observer, tokens, tops, positions, None, self.cost_, notes)

    def _row(self, text: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """The tokens [T] and their best guesses [T, BEST] of one of the texts [B, T, d] that crossed together."""
        encoder, rows = self.encoder_, text[number, :, : self.encoder_.width]
        ids, length = [encoder.begin], len(rows)
        start = encoder.row(torch.tensor([encoder.begin]))
        self.noise_ = float((start - rows[0]).norm())
        if not self.spec_:  # the row that everybody knows tells whether the codec loses anything
            self.exact_ = self.noise_ < self.tolerance * float(start.norm())
        top = [torch.tensor([encoder.begin, *[-1] * (BEST - 1)])]
        empty = self.noise_ > STRANGE * float(start.norm())
        while not empty and len(ids) < length and (len(ids) == 1 or ids[-1] != encoder.end):
            best = self._next(torch.tensor(ids), text, number)
            if not self.exact_ and best[0] != encoder.end and (best == encoder.end).any() and self._ends(ids, rows):
                best = torch.cat([best.new_tensor([encoder.end]), best[best != encoder.end]])
            ids.append(int(best[0]))
            top.append(best)
        rest = length - len(ids)
        filled = torch.tensor(ids + [encoder.pad] * rest)
        top += [torch.tensor([encoder.pad, *[-1] * (BEST - 1)])] * rest
        return filled, torch.stack(top)

    def _ends(self, ids: list[int], rows: Tensor) -> bool:
        """Whether all rows that are left are those of an end and padding: the codec may make one row of two tokens."""
        encoder, t = self.encoder_, len(ids)
        made = encoder.rows(torch.tensor([*ids, encoder.end, *[encoder.pad] * (len(rows) - t - 1)]))
        away = (made - rows).norm(dim=-1) / made.norm(dim=-1)
        return float(away[t:].max()) < ENDS * float(away[:t].max())

    def _next(self, before: Tensor, text: Tensor, number: int) -> Tensor:
        """The ten best tokens behind `before` [t], of one of the texts [B, T, d]."""
        h = text[number, len(before), : self.encoder_.width]
        search, vocabulary = Search(h, self.log_prior_, self.rows_), self.encoder_.vocabulary
        widths = (vocabulary,) if vocabulary <= self.widths[-1] else (*self.widths, vocabulary)
        for width in widths:
            ids = search.more(width - len(search.ids)) if width < vocabulary else self._left(search)
            if len(before) == 1 and width == vocabulary:  # behind the first token all prompts are alike
                key = ("prompt start", self.encoder_.layer, len(ids))
                vectors = shelved(self.knowledge_, key, partial(self._tried, before, ids))
            else:
                vectors = self._tried(before, ids)
            search.add(ids, vectors)
            away = (search.vectors - h).norm(dim=-1)
            near = away.topk(min(LOOKS[-1], len(away)), largest=False)
            limit = self.tolerance * float(h.norm()) if self.exact_ else SURE * self.noise_
            sure = bool(near.values[0] < limit) and (self.exact_ or bool(near.values[1] > APART * near.values[0]))
            if sure:
                break
        order = near.indices
        if not self.exact_ and not sure and self.spec_:
            order = self._looked(search.vectors, order, text, number, len(before))
        best = search.ids[order[:BEST]]
        return torch.cat([best, best.new_full((BEST - len(best),), -1)])

    def _looked(self, vectors: Tensor, order: Tensor, text: Tensor, number: int, t: int) -> Tensor:
        """The nearest of the vectors tried in the order of what the codec makes of them."""
        away = torch.empty(0)
        for some in (order[first:stop] for first, stop in itertools.pairwise(LOOKS)):
            away = torch.cat([away, self._coded(vectors[some], text, number, t)])
            if len(away) and float(away.min()) < FALLS * self.noise_:
                break
        return order[: len(away)][away.argsort(stable=True)]

    def _coded(self, vectors: Tensor, text: Tensor, number: int, t: int) -> Tensor:
        """How far [n] each vector [n, d] is, after the codec, from the row t that crossed, the other rows being there.

        What crossed is on the codec's grid already, so the right candidate falls on the very levels that crossed.
        """
        wire, width, found = codec(self.spec_), self.encoder_.width, []
        for vector in vectors:
            whole = text.clone()
            whole[number, t, :width] = vector
            again = wire.decode(wire.encode(whole))
            found.append(float((again[number, t, :width] - text[number, t, :width]).norm()))
        return torch.tensor(found)

    def _left(self, search: Search) -> Tensor:
        """All tokens that were not tried."""
        rest = torch.ones(self.encoder_.vocabulary, dtype=torch.bool)
        rest[search.ids] = False
        return rest.nonzero()[:, 0]

    def _tried(self, before: Tensor, ids: Tensor) -> Tensor:
        self.cost_.candidates += len(ids)
        return self.encoder_.candidates(before, ids)

    def _verified(self, crossed: Tensor, texts: list[Tensor]) -> bool:
        """Whether these texts give, through the codec, what crossed [B, T, d]; of two encoders, the first's part."""
        made = crossed.clone()
        for row, ids in zip(made, texts, strict=True):
            if int(ids[0]) == self.encoder_.begin and bool((ids[1:] != self.encoder_.pad).any() | (row != 0).any()):
                row[:, : self.encoder_.width] = self.encoder_.rows(ids)
        if self.exact_:
            return bool(torch.allclose(made, crossed, atol=1e-3, rtol=1e-3))
        wire = codec(self.spec_)
        return bool((wire.decode(wire.encode(made)) == crossed).float().mean() > SAME)


def words_of(knowledge: Knowledge) -> Tensor:
    """The tokens of the attacker's own texts, as one row; none where there is no text."""
    tok = knowledge.tokenizer
    found = [torch.tensor(tok(passage, verbose=False)["input_ids"]) for passage in knowledge.text or ()]
    return torch.cat([torch.empty(0, dtype=torch.long), *found])


def _negative(text: Tensor) -> bool:
    """Whether the first half of the rows are other texts: guidance puts the negative prompt there."""
    half = len(text) // 2
    return half > 0 and not torch.equal(text[:half], text[half:])
