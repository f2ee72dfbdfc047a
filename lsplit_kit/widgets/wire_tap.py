"""WireTap: the crossings of a run as they happen, or those of a saved capture; any of them can be looked into."""

from __future__ import annotations

import base64
import os
import textwrap
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from ..errors import CaptureError, UnsupportedOption
from ..figures.paint import shown_at
from ..figures.picture import figure_html
from ..quantization.registry import specs
from ..wire.message import MODES, POLICIES
from .announcer import Announcer
from .readout import STYLE, reply_html
from .settings import CHOICES, LOSSLESS, Setting, checked, field
from .wire_run import cut, kind_of, loaded, picture, reply
from .wire_view import WireView
from .worker import Worker

if TYPE_CHECKING:
    import pandas as pd

TEXT, PICTURE = ("new_tokens", "head", "tail", "cache"), ("seed", "steps", "guidance_scale", "mode")
BOTH = ("codec_up", "codec_down", "network")
SPLIT = ("head", "tail", "cache", "mode", *BOTH)  # settings that a model which is split already has
PROMPTS = {"text": "Why is the sky blue?", "picture": "a red apple"}
SIDE = 128  # units of a picture


class WireTap(W.VBox):
    """A panel over one model: Run makes a reply, or a picture, and every crossing is drawn as it happens.

    model: a language model, a pipeline, the name of either, or one that is split already (its link and codecs are then
    used as they are). capture: a saved capture (or a tap) to look at instead, without a model. body, certificate: as in
    `split`; call: further arguments of a pipeline's call. A slider, a click or `chosen` says which crossing is
    looked into, `vector` which vector of it. The settings below can be set from code too; what does not fit raises an
    LsplitError.
    """

    seed, steps, guidance_scale, mode, new_tokens, head, tail, cache = (Setting() for _ in range(8))
    codec_up, codec_down, network = Setting(), Setting(), Setting()

    def __init__(
        self, model: Any = "smollm2", capture: Any = None, body: Any = None, prompt: str | None = None, head: int = 2,
        tail: int = 2, new_tokens: int = 16, cache: str = "kv", seed: int = 0, steps: int = 20,
        guidance_scale: float = 3.0, mode: str = "per_step", codec: str | tuple[str | None, str | None] | None = None,
        network: str = "none", call: Mapping[str, Any] | None = None,
        certificate: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        if capture is not None and not hasattr(capture, "crossings"):
            raise CaptureError(f"capture takes what lk.Capture.load() gives, or a tap; got {type(capture).__name__}.")
        self.announcer = Announcer(names=["Crossing", "Vector of the crossing"], panel=".wire-tap",
                                   handles=".wire-knob .noUi-handle")  # fmt: skip
        self.view = WireView(self._say)
        self.model, self.body, self.call, self.capture, self.certificate = model, body, call, capture, certificate
        self.made: Any = None  # the reply, or the picture, of the last run
        style = W.HTML(STYLE.replace(".quant-knob", ".wire-knob"), layout={"height": "0", "margin": "0"})
        self._controls("picture" if capture is None and kind_of(model) == "picture" else "text")
        above = [self.model_box, *self.rows, self.worker, self.output] if capture is None else [self.about]
        super().__init__([style, *above, self.view, self.announcer])
        self.add_class("wire-tap")
        self.prompt = PROMPTS[self.kind] if prompt is None else prompt
        self.new_tokens, self.head, self.tail, self.cache = new_tokens, head, tail, cache
        self.seed, self.steps, self.guidance_scale, self.mode = seed, steps, guidance_scale, mode
        self.codec, self.network = codec, network
        if capture is None:
            self.worker.tell("Not run yet.")
        else:
            self.view.show(capture, follow=False)

    def _controls(self, kind: str) -> None:
        given = self.model[0] if isinstance(self.model, tuple) else self.model
        name = given if isinstance(given, str) else getattr(given, "lsplit_name", None) or type(given).__name__
        self.fixed = hasattr(given, "remote")
        elsewhere = self.body is not None and self.body != "loopback"  # such a host holds one model
        others = [] if self.fixed or elsewhere else _others(kind)
        self.models = {name: given} | {other: other for other in others if other != name}
        self.model_box = field(W.Dropdown, "Model", "What is split and run", options=list(self.models))
        codecs = [LOSSLESS, *specs()]
        self.controls: dict[str, Any] = {
            "prompt": field(W.Text, "Prompt", "What the model reads, or what the picture shows", "auto"),
            "new_tokens": field(W.BoundedIntText, "New tokens", "At most so many", min=1, max=1024),
            "head": field(W.BoundedIntText, "Head", "Decoder layers before the body", min=0, max=999),
            "tail": field(W.BoundedIntText, "Tail", "Decoder layers after the body", min=0, max=999),
            "cache": field(W.Dropdown, "Cache", "What the host keeps between tokens", options=POLICIES),
            "seed": field(W.BoundedIntText, "Seed", "Of the first noise", min=0, max=2**31 - 1),
            "steps": field(W.BoundedIntText, "Steps", "Denoising steps", value=1, min=1, max=999),
            "guidance_scale": field(W.BoundedFloatText, "Guidance scale", "How closely the picture follows the prompt",
                                    min=0, max=100, step=0.5),
            "mode": field(W.Dropdown, "Mode", "per_step sends the latent at every step, lockstep once", options=MODES),
            "codec_up": field(W.Combobox, "Codec up", "Any of docs/codecs.md", options=codecs, value=LOSSLESS),
            "codec_down": field(W.Combobox, "Codec down", "Any of docs/codecs.md", options=codecs, value=LOSSLESS),
            "network": field(W.Dropdown, "Network", "What the link goes through, on a virtual clock",
                             options=CHOICES["network"]),
        }  # fmt: skip
        for control, box in self.controls.items():
            box.add_class(f"wire-{control}")
            box.disabled = self.fixed and control in SPLIT
        self.model_box.add_class("wire-model")
        rows = (TEXT, PICTURE, BOTH)
        self.rows = [self.controls["prompt"], *(W.HBox([self.controls[one] for one in row],
                                                       layout={"flex_flow": "row wrap"}) for row in rows)]  # fmt: skip
        self.worker = Worker("wire", "Make a reply, or a picture, and draw what crosses", lambda: self.run(False),
                             self._say)  # fmt: skip
        self.worker.cancel_button.description = "Stop"
        self.output = W.HTML()
        self.output.add_class("wire-output")
        about = getattr(self.capture, "_repr_html_", lambda: escape(repr(self.capture)))
        self.about = W.HTML(about())
        self.kind = kind
        self._turn(kind)
        self.model_box.observe(lambda change: self._turn(kind_of(self.models[change["new"]])), "value")

    def _turn(self, kind: str) -> None:
        """Show the settings of this kind of model."""
        self.kind = kind
        if self.controls["prompt"].value in PROMPTS.values():
            self.controls["prompt"].value = PROMPTS[kind]
        for row, mine in ((self.rows[1], "text"), (self.rows[2], "picture")):
            row.layout.display = None if kind == mine else "none"

    def _say(self, words: str) -> None:
        self.announcer.said = words

    @property
    def prompt(self) -> str:
        """What the model reads, or what the picture shows."""
        return self.controls["prompt"].value

    @prompt.setter
    def prompt(self, words: str) -> None:
        self.controls["prompt"].value = checked("prompt" if self.kind == "picture" else "sentence", words, [])

    @property
    def codec(self) -> tuple[str, str]:
        """The codecs (up, down); "lossless" is the lossless one of the model's number format."""
        return self.codec_up, self.codec_down

    @codec.setter
    def codec(self, asked: str | tuple[str | None, str | None] | None) -> None:
        pair = (asked, asked) if asked is None or isinstance(asked, str) else asked
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise UnsupportedOption(f"codec takes one spec or a pair (up, down), got {asked!r}.")
        self.codec_up, self.codec_down = (LOSSLESS if spec is None else spec for spec in pair)

    @property
    def chosen(self) -> int:
        """The crossing that is looked into, as the ledger counts them; clipped, -1 before there is one."""
        return self.view.chosen

    @chosen.setter
    def chosen(self, number: int) -> None:
        self.view.chosen = number

    @property
    def vector(self) -> int:
        """The vector of the crossing that is plotted, from 0; clipped."""
        return self.view.vector

    @vector.setter
    def vector(self, number: int) -> None:
        self.view.vector = number

    @property
    def across(self) -> str:
        """What x is: "step", or "clock" after a run over an emulated link."""
        return self.view.across.value

    @across.setter
    def across(self, what: str) -> None:
        self.view.choose_across(what)

    @property
    def wire(self) -> Any:
        """The tap of the last run, or the capture; None before there is one."""
        return self.view.source

    def totals(self) -> pd.DataFrame:
        """Tensor, payload and frame bytes by direction, of what is drawn."""
        return self.view.totals()

    @property
    def text(self) -> str:
        """What is to be seen, and why a run ended early if it did, in lines of at most 72 characters."""
        return textwrap.fill(f"{self.view.alt} {self.worker.why}".strip(), 72)

    def run(self, wait: bool = True) -> Any:
        """Run in a thread; waits, for what is under way too, and returns the reply or the picture.

        None where the run did not finish, and at once with wait=False. Raises UnsupportedOption for a capture.
        """
        if self.capture is not None:
            raise UnsupportedOption("This panel shows a capture; make one with a model, lk.WireTap(model), to run it.")
        if wait:
            self.worker.wait()
        if not self.worker.busy:
            self.made, self.output.value = None, ""
            settings = {name: control.value for name, control in self.controls.items()}
            self.worker.start(lambda: self._job(self.models[self.model_box.value], settings))
        if not wait:
            return None
        self.worker.wait()
        return self.made

    def cancel(self) -> None:
        """Ask the run to stop after the step that is being made; does nothing when none runs."""
        self.worker.cancel()

    def refresh(self) -> None:
        """Draw what a tap given as `capture` has heard since."""
        self.view.draw()

    def _job(self, model: Any, settings: dict[str, Any]) -> str:
        from ..wire.tap import tap

        kind = kind_of(model)
        checked("prompt" if kind == "picture" else "sentence", settings["prompt"], [])
        if not self.fixed:
            for name in ("codec_up", "codec_down"):
                settings[name] = checked(name, settings[name].strip() or LOSSLESS, [])
            self.worker.step(0, 1, "Loading")
            model = loaded(model)
        ours = model if self.fixed else cut(model, settings, self.body, self.certificate)
        try:
            with tap(ours, self.view.heard) as wire:
                self.view.show(wire)
                made = self._make(kind, ours, settings)
        finally:
            self.view.draw()  # what came in since the last drawing
            if not self.fixed and (self.body is None or isinstance(self.body, str)):  # a Link is its owner's
                ours.close()
        self.made = made
        return self.view.alt

    def _make(self, kind: str, ours: Any, settings: dict[str, Any]) -> Any:
        if kind == "picture":
            image = picture(ours, settings, self.call, lambda done, of: self.worker.step(done, of, "Running"))
            self.output.value = figure_html("Split", image, "finished", settings["prompt"], SIDE)
            return image

        def say(words: str) -> None:
            self.output.value = reply_html(words, "")

        words = reply(ours, settings, lambda done, of: self.worker.step(done, of, "Running"), say)
        say(words)
        return words

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle or {})
        png = self.view.png
        bundle |= {"image/png": base64.b64encode(png).decode("ascii"), "text/plain": self.text}
        return bundle, {"image/png": shown_at(png)}


def _others(kind: str) -> list[str]:
    """Names for the menu beside the model that was given: one of each kind, and a toy."""
    from ..models.convert import SMOLLM2
    from ..models.names import picture_names

    both = [SMOLLM2, picture_names()[0]]
    return [*(both if kind == "text" else both[::-1]), "toy-llama"]
