"""Drafts from the local ends: a small trained net guesses the LM head's next input from the last one and a new token.

The vector that the LM head read last is local, and true: it came through the body. A cell takes it and the embedding of
the token that was just chosen, and says what the LM head would read next; a shortlist of the LM head's rows makes a
token of that. No part of the body is needed, and nothing crosses. (The idea of a net on the model's last features is
that of Medusa, arXiv 2401.10774, and EAGLE, arXiv 2401.15077.) `scripts/train_draft.py` makes one for a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from .lookup import Guess

SHIPPED = Path(__file__).parent / "drafts"
BINS = 10  # kinds of certainty whose chances are kept apart


class Cell(nn.Module):
    """state [n, d], embedding [n, d] -> the next state [n, d]; a state is what the LM head reads, over its length."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2 * width, inner), nn.Linear(inner, width, bias=False)
        self.keep, self.take = nn.Parameter(torch.full((width,), 0.5)), nn.Parameter(torch.full((width,), 0.1))
        self.sharp = nn.Parameter(torch.tensor(3.0))

    def entered(self, vector: Tensor) -> Tensor:
        """Vectors [n, d] at length sqrt(d)."""
        return nn.functional.rms_norm(vector, vector.shape[-1:])

    def forward(self, state: Tensor, embedding: Tensor) -> Tensor:
        """One token further."""
        token = self.entered(embedding)
        inner = nn.functional.silu(self.first(torch.cat([state, token], dim=-1)))
        return self.entered(state * self.keep + token * self.take + self.second(inner))

    def scores(self, state: Tensor, rows: Tensor) -> Tensor:
        """Logits [n, R] over rows [R, d] of the LM head."""
        return self.sharp * nn.functional.linear(state, rows)


def write(cell: Cell, shortlist: Tensor, bins: Sequence[Sequence[float]], facts: Mapping[str, Any]) -> bytes:
    """A file of a net: its weights in fp16, the token ids it can guess [R], the chances of its guesses, its model."""
    from safetensors.torch import save

    parts = {f"cell.{name}": value.detach().half().contiguous() for name, value in cell.state_dict().items()}
    parts["shortlist"], parts["chances"] = shortlist.int(), torch.tensor(bins)
    return save(parts, {"lsplit_draft": json.dumps(dict(facts))})


class Ahead:
    """Guesses tokens ahead of the body; `extend` gives it a true vector, `guess` goes one token further."""

    name = "head"

    def __init__(self, path: Path, embedding: Tensor, head: Tensor) -> None:
        """embedding, head [V, d]: the model's own. Raises WeightsError for a file that does not fit them."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            parts = load_file(path)
            weights = {n.removeprefix("cell."): v.float() for n, v in parts.items() if n.startswith("cell.")}
            inner, width = weights["first.weight"].shape[0], weights["second.weight"].shape[0]
            self.cell = Cell(width, inner)
            self.cell.load_state_dict(weights)
            self.usual_chances: list[list[float]] = parts["chances"].tolist()
            self.shortlist = parts["shortlist"].long()
            self.embedding, self.head = embedding.detach(), head.detach()
            self.rows = self.head[self.shortlist].float()
            fits = width == self.head.shape[1] == self.embedding.shape[1]
        except (OSError, SafetensorError, KeyError, RuntimeError, IndexError) as error:
            raise WeightsError(f"{path.name} is no draft net of this model ({type(error).__name__}).") from None
        if not fits:
            raise WeightsError(f"{path.name} is for vectors of {width} values, this model has {self.head.shape[1]}.")
        self.cell.requires_grad_(False)
        self.state: Tensor | None = None
        self.tokens, self.also = self.shortlist, self.rows
        self.depth = self.last = 0

    def begin(self, ids: Sequence[int]) -> None:
        """A new text: its own tokens join the shortlist."""
        new = torch.tensor(sorted(set(ids) - set(self.shortlist.tolist())), dtype=torch.long)
        self.tokens = torch.cat([self.shortlist, new])
        self.also = torch.cat([self.rows, self.head[new].float()])
        self.state = None

    def extend(self, ids: Sequence[int], vector: Tensor | None) -> None:
        """The last of these tokens was chosen from this vector [d]."""
        self.last = ids[-1]
        self.state = None if vector is None else self.cell.entered(vector.float()[None])
        self.depth = 0

    def guess(self, drafted: Sequence[int]) -> Guess | None:
        """What follows; None before the first vector was seen."""
        if self.state is None:
            return None
        with torch.inference_mode():
            token = self.embedding[drafted[-1] if drafted else self.last]
            self.state = self.cell(self.state, token[None].float())
            chances = self.cell.scores(self.state, self.also)[0].softmax(-1)
            sure, pick = chances.max(-1)
        kind = (min(self.depth, len(self.usual_chances) - 1), min(int(float(sure) * BINS), BINS - 1))
        self.depth += 1
        return Guess(int(self.tokens[pick]), self.name, kind)

    def usual(self, kind: tuple[Any, ...]) -> float:
        """The chance that such a guess is right, as measured on held-back texts."""
        depth, level = kind
        return self.usual_chances[depth][level]


def fitting(facts: Mapping[str, Any]) -> Path | None:
    """The shipped net for a model with these facts (`split.calibrated.facts_of`), if there is one."""
    from safetensors import safe_open

    for path in sorted(SHIPPED.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            said = json.loads((file.metadata() or {}).get("lsplit_draft", "{}"))
        if all(said.get(name) == value for name, value in facts.items()):
            return path
    return None
