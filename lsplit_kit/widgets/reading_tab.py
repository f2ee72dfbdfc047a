"""The text tab of QuantLab: one sentence, read through a codec and without, and the hidden tensor that goes up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as W

from ..errors import UnsupportedModel, UnsupportedOption
from ..figures.lab import Reading, reading_alt, reading_html
from ..figures.stack import counted
from ..quantization.calibration import bound, fitting, unbound
from ..split.calibrated import calibrated_at, facts_of
from .lab_tab import LabTab, values_of
from .picture_split import KEPT
from .settings import checked, field
from .split_explorer import language_model


class ReadingTab(LabTab):
    """A language model (or its name), and what a codec on both of its crossings does to one sentence."""

    def __init__(self, model: Any, codec: str, new_tokens: int, say: Callable[[str], None]) -> None:
        from ..models.names import is_picture

        if isinstance(model, str) and is_picture(model):
            raise UnsupportedModel(f"{model!r} is a pipeline; give QuantLab a language model as model=.")
        self.model = model if isinstance(model, str) else language_model(model)
        self.new_tokens, self.seen = new_tokens, Reading()
        self._looked: tuple[str, int, int] | None = None  # of what the hidden tensor is
        self._next: dict[tuple[int, ...], str] = {}  # what the unsplit model says, by token ids
        self.controls: dict[str, Any] = {
            "sentence": field(W.Textarea, "Sentence", "What the model reads", "auto", rows=2),
            "head": field(W.BoundedIntText, "Head", "Decoder layers before the body", min=0, max=999),
            "tail": field(W.BoundedIntText, "Tail", "Decoder layers after the body", min=0, max=999),
        }  # fmt: skip
        sentence, *cuts = self.controls.values()
        super().__init__("text", [[sentence], cuts], codec, False, "Read the sentence through this codec", say)
        for control in cuts:
            control.observe(lambda change: self._offer(), "value")
        self._offer()

    def _offer(self) -> None:
        """Offer calibrated codecs where the kit has calibrations for both crossings of the cut."""
        cuts = self.controls["head"].value, self.controls["tail"].value
        self.picker.calibrated = calibrated_at(self.model, *cuts)

    def bound(self, spec: str) -> str:
        """The spec with the name of the calibration for what goes up."""
        if self._looked is None or not unbound(spec):
            return spec
        name = fitting(facts_of(self.model), self._looked[1])
        return spec if name is None else bound(spec, name)

    def begin(self) -> None:
        """Forget the last reading."""
        self.seen = Reading()

    def result(self) -> Any:
        """What the model says next, with the codec."""
        return self.seen.next_split if self.seen.quality is not None else None

    def said(self) -> str:
        """One sentence about the reading."""
        return reading_alt(self.seen)

    def job(self) -> str:
        """Read the sentence without the codec, where that was not done yet, and with it."""
        from ..face import split  # the verb: a panel runs the kit the way its reader would
        from ..measure import bits_a_value, text_quality
        from ..wire.tap import tap

        settings, spec = values_of(self.controls), self.picker.spec
        words, head, tail = checked("sentence", settings["sentence"], []), settings["head"], settings["tail"]
        if isinstance(self.model, str):
            self.worker.step(0, 1, f"Loading {self.model}")
            self.model = language_model(self.model)
        tokenizer = getattr(self.model, "lsplit_tokenizer", lambda: None)()
        ids = _ids(tokenizer, words)
        with split(self.model, head=head, tail=tail, codec=spec) as lm:  # a bad cut or codec is refused before the work
            self._look(ids, words, head, tail)
            whole = self._whole(tokenizer, ids)
            self.worker.step(0, 1, f"Reading with {spec}")
            with tap(lm) as wire:
                quality = text_quality({spec: lm}, self.model, ids[0]).loc[spec].to_dict()
            bytes_ = wire.totals()["payload"]
            bits = bits_a_value(wire.crossings, "up"), bits_a_value(wire.crossings, "down")
            ours = self._go_on(lm, tokenizer, ids, f"Going on with {spec}")
        self.seen = Reading(words, ids.shape[1], str(lm.plan), spec, int(bytes_["up"]), int(bytes_["down"]), bits,
                            quality, whole, ours)  # fmt: skip
        self.output.value = reading_html(self.seen)
        return reading_alt(self.seen)

    def _look(self, ids: Any, words: str, head: int, tail: int) -> None:
        """Capture the hidden tensor that goes up, unless it is there already."""
        from ..measure import hidden_of

        if self._looked == (words, head, tail):
            return
        self.worker.step(0, 1, "Looking at what goes up")
        up, _ = hidden_of(self.model, ids, head, tail)
        about = f"Tried on what goes up of the sentence: {counted(ids.shape[1], 'token')} after {counted(head)}."
        self._looked = (words, head, tail)  # before the capture, which asks for the cut's calibration
        self.capture([up], about, hidden=up)

    def _whole(self, tokenizer: Any, ids: Any) -> str:
        """What the unsplit model says next."""
        key = tuple(ids[0].tolist())
        if key not in self._next:
            said = self._go_on(self.model, tokenizer, ids, "Going on without a codec")
            self._next = dict([*self._next.items(), (key, said)][-KEPT:])
        return self._next[key]

    def _go_on(self, model: Any, tokenizer: Any, ids: Any, words: str) -> str:
        """The greedy continuation of ids [1, T]; Cancel is obeyed after every token."""
        import torch

        from .streaming import Progress, Streamer

        progress = Progress()

        def note() -> None:
            self.worker.step(min(progress.tokens, self.new_tokens), self.new_tokens, words)

        with torch.no_grad():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.new_tokens, do_sample=False,
                pad_token_id=tokenizer.pad_token_id, streamer=Streamer(tokenizer, progress, note),
            )  # fmt: skip
        return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def _ids(tokenizer: Any, words: str) -> Any:
    """Token ids [1, T] of the sentence, without a chat template; UnsupportedOption where T does not do."""
    from ..measure.text import WINDOW

    if tokenizer is None:
        raise UnsupportedOption("This model came without a tokenizer; load it with lk.load().")
    ids = tokenizer(words, return_tensors="pt").input_ids
    if not 2 <= ids.shape[1] <= WINDOW:
        many = counted(ids.shape[1], "token")
        raise UnsupportedOption(f"The sentence has {many}; the panel reads 2 to {WINDOW}.")
    return ids
