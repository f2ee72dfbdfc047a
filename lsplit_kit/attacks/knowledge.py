"""What an attacker knows beside what an observer sees; an attack that needs more refuses to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..card import Card
from ..errors import NeedsKnowledge, UnsupportedOption
from .options import whole

WEIGHTS = ("public", "fine-tuned", "architecture", "none")


@dataclass(frozen=True, repr=False)
class Knowledge(Card):
    """The attacker's side of a threat model; by default as much as anyone has of an open model.

    model, tokenizer: the attacker's own copy; of pictures, the public pipeline. head, tail: what it has to do with the
    weights at work there: "public" (they are the same), "fine-tuned" (those were trained on from these),
    "architecture" (only the classes and sizes agree), "none". text: passages of any origin but the victim's. queries:
    runs token ids [B, T] through the very head and returns hidden tensors [B, T, d]; budget: how many tokens may be
    sent through it (None: no bound). template, layer: whether the fixed text around prompts and the place of the cut
    are known. codec: whether an attack runs the codec on vectors of its own; what crossed is handed over decoded in
    either case, so without it the codec is not modelled, and its payloads are read all the same.
    """

    model: Any = None
    tokenizer: Any = None
    head: str = "public"
    tail: str = "public"
    text: Sequence[str] | None = None
    queries: Callable[[Tensor], Tensor] | None = None
    template: bool = True
    codec: bool = True
    layer: bool = True
    budget: int | None = None
    shelf: dict[Any, Any] = field(default_factory=dict, init=False, compare=False)  # worked out once, for all attacks

    def __post_init__(self) -> None:
        for name, mark, such in (("model", "config", "lk.load(...)[0]"), ("tokenizer", "decode", "lk.load(...)[1]")):
            value = getattr(self, name)
            if value is not None and not hasattr(value, mark):
                raise UnsupportedOption(
                    f"{name} takes the attacker's own copy, as {such} gives it, or None, got {type(value).__name__}."
                )
        for name in ("head", "tail"):
            if getattr(self, name) not in WEIGHTS:
                raise UnsupportedOption(
                    f"{name}={getattr(self, name)!r}: the weights are one of {', '.join(map(repr, WEIGHTS))}."
                )
        if isinstance(self.text, str):
            raise UnsupportedOption("text takes a list of passages, got one string.")
        if self.text is not None and not isinstance(self.text, Sequence):
            raise UnsupportedOption(f"text takes a list of passages, or None, got {type(self.text).__name__}.")
        odd = next((passage for passage in self.text or () if not isinstance(passage, str)), None)
        if odd is not None:
            raise UnsupportedOption(f"text takes a list of passages, each a text, got one that is {odd!r:.60}.")
        if self.queries is not None and not callable(self.queries):
            raise UnsupportedOption("queries takes a function from token ids [B, T] to hidden tensors [B, T, d].")
        for name in ("template", "codec", "layer"):
            if not isinstance(getattr(self, name), bool):
                raise UnsupportedOption(f"{name} takes True (known) or False, got {getattr(self, name)!r:.60}.")
        if self.budget is not None and not whole(1).fits(self.budget):
            raise UnsupportedOption(f"budget takes a whole number of tokens from 1, or None, got {self.budget!r}.")

    def but(self, **changes: Any) -> Knowledge:
        """The same knowledge with something else known or not; what was worked out before is not handed on."""
        return replace(self, **changes)

    def has(self, what: str) -> bool:
        """Whether a kind of knowledge that an attack `requires` is there."""
        own = self.model is not None
        return {
            "tokenizer": self.tokenizer is not None,
            "head weights": own and self.head in ("public", "fine-tuned"),
            "head weights or queries": (own and self.head in ("public", "fine-tuned")) or self.queries is not None,
            "embeddings": own and self.head in ("public", "fine-tuned"),
            "LM head": own and self.tail in ("public", "fine-tuned"),
            "tail weights": own and self.tail in ("public", "fine-tuned"),
            "language model": own and all(side in ("public", "fine-tuned") for side in (self.head, self.tail)),
            "text": bool(self.text),
            "layer": self.layer,
            "scheduler": getattr(self.model, "scheduler", None) is not None,
            **{name: known and self._part(*parts) for name, (known, parts) in self._of_pictures().items()},
        }[what]

    def _of_pictures(self) -> dict[str, tuple[bool, tuple[str, ...]]]:
        """Parts of a pipeline: whether their weights are known as far as those of head and tail, and their names."""
        head, tail = (side in ("public", "fine-tuned") for side in (self.head, self.tail))
        return {
            "denoiser": (head and tail, ("unet", "transformer")),
            "autoencoder": (tail, ("vae",)),
            "text encoder": (head, ("text_encoder",)),
        }

    def _part(self, *names: str) -> bool:
        return any(getattr(self.model, name, None) is not None for name in names)

    def grant(self, attack: str, requires: Sequence[str]) -> None:
        """Raise NeedsKnowledge unless everything in `requires` is known."""
        missing = [what for what in requires if not self.has(what)]
        if missing:
            raise NeedsKnowledge(f"{attack} needs {', '.join(missing)}, which this threat model does not grant.")

    def _card(self) -> tuple[str, dict[str, object]]:
        return "What the attacker knows", {
            "head": self.head,
            "tail": self.tail,
            "text": f"{len(self.text):,} passages" if self.text else "none",
            "queries": "none" if not self.queries else f"{self.budget:,} tokens" if self.budget else "any number",
            **{name: "known" if getattr(self, name) else "not known" for name in ("template", "codec", "layer")},
        }
