"""What the Run button of AttackArena does: split, record one prompt, fit an attack, read, compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..errors import UnsupportedModel, UnsupportedOption
from ..figures.arena import Bout
from ..figures.stack import counted

REPLY = 6  # tokens


class Live:
    """A model to attack, and what attackers worked out at the cut that was attacked last.

    step(words): tells how far a run is, and raises to end it; it is called before every forward pass too.
    """

    def __init__(self, model: Any, step: Callable[[str], None]) -> None:
        self.model, self.step = model, step
        self.tokenizer: Any = None
        self.text: list[str] = []
        self._shelf: dict[Any, Any] = {}
        self._cut = (-1, -1)

    def load(self) -> None:
        """Load the model by its name, where one was given; raises as `load` does, and UnsupportedModel."""
        from ..data import topics
        from .split_explorer import language_model

        if self.tokenizer is not None:
            return
        if isinstance(self.model, str):
            self.step(f"Loading {self.model}")
        self.model = language_model(self.model)
        self.tokenizer = getattr(self.model, "lsplit_tokenizer", lambda: None)()
        if self.tokenizer is None:
            raise UnsupportedModel("This model came without a tokenizer; load it with lk.load().")
        self.text = [text for _, text in topics("all")]

    def run(self, settings: Mapping[str, Any]) -> Bout:
        """The result of one attack; raises LsplitErrors for what does not fit, and what `step` raises."""
        from ..attacks import record
        from ..attacks.pieces import piece
        from ..attacks.report import report
        from ..attacks.threats import allowed, attack_of, direction_of, knowledge_of
        from ..face import split  # the verb: a panel runs the kit the way its reader would
        from ..measure.inversion import ladder

        self.load()
        name, observer, codec = (settings[key] for key in ("attack", "observer", "codec"))
        knowledge = knowledge_of(settings["knowledge"], self.model, self.tokenizer, self.text, settings["depth"])
        direction = direction_of(name, observer)
        allowed(name, observer, knowledge, direction)
        down = direction == "down"
        cut = (0, settings["tail"]) if down else (settings["depth"], 0)
        if cut != self._cut:  # what was worked out for one cut is of no use elsewhere, and large
            self._shelf, self._cut = {}, cut
        shelf = self._shelf.setdefault(settings["knowledge"], {})
        knowledge.shelf.update(shelf)
        hook = self.model.get_input_embeddings().register_forward_pre_hook(lambda *_: self.step(""))
        try:
            self.step("Recording the prompt")
            with split(self.model, head=cut[0], tail=cut[1], codec=("fp32", codec) if down else codec) as lm:
                capture = record(lm, [settings["prompt"]], new_tokens=REPLY)
            view = capture.view(observer)
            reports = []
            for one in dict.fromkeys(("PriorOnly", name)):
                self.step(f"Fitting {one}")
                attack = attack_of(one, direction).fit(view, knowledge)
                self.step(f"Reading with {one}")
                found = attack.reconstruct(view)
                reports.append(report(found, capture, self.model if down else None))
        finally:
            hook.remove()
            shelf.update(knowledge.shelf)
        said = reports[-1]
        return Bout(name, observer, place_of(sum(cut), codec, direction), said.tokens, partial(piece, self.tokenizer),
                    ladder([said], reports[0]).iloc[0].to_dict(), 1,
                    beside=report(found, capture).tokens if down else None)  # fmt: skip


def place_of(layers: int, codec: str, direction: str = "up") -> str:
    """Where vectors are taken, in words; layers: of the head for what goes up, of the tail for what comes down."""
    where = f"behind {counted(layers, 'layer')}" if direction == "up" else f"{counted(layers, 'layer')} before the end"
    return f"{where}, {codec}"


def checked_depth(depth: Any, name: str = "depth") -> int:
    """A number of layers; raises UnsupportedOption."""
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise UnsupportedOption(f"{name} takes a whole number from 0, got {depth!r}.")
    return depth
