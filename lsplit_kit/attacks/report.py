"""How much of the truth an attack found; one of the three modules that open a capture's truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..card import Card
from ..errors import CaptureError
from ..wire.capture import Capture
from ..wire.sealed import Truth
from .attack import Cost, Reconstruction
from .candidates import read

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("template", "first", "prompt", "reply")  # first: position 0 of the model, where no text stands before


@dataclass(frozen=True, repr=False)
class Report(Card):
    """One row per token: conversation, position, kind, truth, guess, right, rank (1 = best; -1 beyond what it says),
    log_prob (of the truth, natural logarithm; NaN where the attack only says tokens) and mass (of all tokens at least
    as likely as the truth)."""

    attack: str
    observer: str
    tokens: pd.DataFrame
    cost: Cost

    @property
    def counted(self) -> pd.DataFrame:
        """The rows that count: no template, no position 0."""
        return self.tokens[self.tokens.kind.isin(("prompt", "reply"))]

    def accuracy(self, kind: str | None = None) -> float:
        """Share of right tokens among those that count, or among those of one kind."""
        rows = self.counted if kind is None else self.tokens[self.tokens.kind == kind]
        return float(rows.right.mean())

    def top10(self) -> float:
        """Share of counted tokens that are among the attack's ten best guesses."""
        return float(self.counted["rank"].between(1, 10).mean())

    def exact(self) -> float:
        """Share of prompts of which every token is right, position 0 included."""
        rows = self.tokens[self.tokens.kind.isin(("first", "prompt"))]
        return float(rows.groupby("conversation").right.all().mean())

    def row(self) -> dict[str, object]:
        """The figures of a table's row."""
        per_token = self.cost.read_seconds / max(1, len(self.counted))
        return {
            "attack": self.attack, "observer": self.observer, "tokens": len(self.counted),
            "accuracy": self.accuracy(), "top10": self.top10(), "exact": self.exact(),
            "first": self.accuracy("first"), "reply": self.accuracy("reply"),
            "fit_seconds": self.cost.fit_seconds, "seconds_per_token": per_token,
            **({"queries": self.cost.queries} if self.cost.queries else {}),
        }  # fmt: skip

    def _card(self) -> tuple[str, dict[str, object]]:
        row = self.row()
        return f"{self.attack} by {self.observer}", {
            "tokens": f"{row['accuracy']:.1%} right of {row['tokens']:,}",
            "among the ten best": f"{row['top10']:.1%}",
            "whole prompts": f"{row['exact']:.1%} of {self.tokens.conversation.nunique():,}",
            "cost": f"{row['fit_seconds']:.1f} CPU-s to fit, {row['seconds_per_token']:.4f} a token",
            **({"queries": f"{self.cost.queries:,} tokens"} if self.cost.queries else {}),
        }


def report(found: Reconstruction, capture: Capture, model: Any = None) -> Report:
    """Compare a reconstruction with the truth of its capture; raises CaptureError when the capture has none.

    model: compare with what it, run unsplit on the true text, would say next at every place, instead of with the text;
    for attacks on what comes down. A place behind the text counts then, too.
    """
    import pandas as pd

    (truth, texts), parts = _texts(found, capture), []
    for number, ids in enumerate(texts):
        bounds = [int(truth[name][number]) for name in ("first", "stop", "reply")]
        at = found.positions[number]
        if model is not None:
            ids = _next(model, ids)
        at = at[at < len(ids)]  # nobody said what a guess beyond the text is about
        right, guess = ids[at], found.tokens[number][: len(at)]
        parts.append(
            pd.DataFrame(
                {
                    "conversation": number,
                    "position": at.numpy(),
                    "kind": [kind(p, *bounds) for p in at.tolist()],
                    "truth": right.numpy(),
                    "guess": guess.numpy(),
                    "right": (guess == right).numpy(),
                    **_believed(found, number, right),
                }
            )  # fmt: skip
        )
    return Report(found.attack, found.observer, pd.concat(parts, ignore_index=True), found.cost)


class Agreement(NamedTuple):
    """Shares of positions where what an attack says is what the model says: its best guess, and one of its ten best."""

    best: float
    top10: float
    positions: int


def agreement(found: Reconstruction, capture: Capture, model: Any) -> Agreement:
    """How often guesses are what `model`, run unsplit on the true text, finds likeliest at their place.

    For attacks on what comes down, at the places of prompt and reply, and one behind the text. Raises CaptureError.
    """
    said = report(found, capture, model)
    return Agreement(said.accuracy(), said.top10(), len(said.counted))


@torch.inference_mode()
def _next(model: Any, ids: Tensor) -> Tensor:
    """What a model finds likeliest [T + 1] at every place of a text and one behind it; at the first, what stands."""
    return torch.cat([ids[:1], model(ids[None], use_cache=False).logits[0].argmax(-1)])


def _texts(found: Reconstruction, capture: Capture) -> tuple[Truth, tuple[Tensor, ...]]:
    """The truth of a capture and its texts, one for each that was reconstructed; raises CaptureError."""
    if capture.sealed is None:
        raise CaptureError("This capture has no truth to compare with; make one with attacks.record().")
    truth = capture.sealed.open()
    texts = truth["ids"].split(truth["length"].tolist())
    if len(texts) != len(found.tokens):
        raise CaptureError(f"The truth holds {len(texts)} texts, the reconstruction {len(found.tokens)}.")
    return truth, texts


def kind(position: int, first: int, stop: int, reply: int) -> str:
    """What stands at a position of a text with the prompt at first .. stop - 1 and the reply from `reply` on."""
    if first <= position < stop:
        return "prompt" if position else "first"
    return "reply" if position >= reply else "template"


def _believed(found: Reconstruction, number: int, truth: Tensor) -> dict[str, object]:
    if found.log_probs is None:
        hit = found.top[number][: len(truth)] == truth[:, None]
        rank = torch.where(hit.any(-1), hit.float().argmax(-1) + 1, -1)
        nothing = torch.full((len(truth),), float("nan"))
        return {"rank": rank.numpy(), "log_prob": nothing.numpy(), "mass": nothing.numpy()}
    said = read([found.log_probs(number)[: len(truth)]], truth)
    return {"rank": said.rank, "log_prob": said.log_prob, "mass": said.mass}
