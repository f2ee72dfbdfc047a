"""QuantLab: choose a codec and see what it costs and what it breaks, on a picture's noise and on a sentence."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import ipywidgets as W

from ..errors import UnsupportedOption
from ..figures.paint import shown_at
from .announcer import Announcer
from .lab_tab import LabTab
from .noise_tab import NoiseTab
from .reading_tab import ReadingTab
from .readout import STYLE
from .settings import Setting

TABS = ("picture", "text")


class QuantLab(W.VBox):
    """A panel with two tabs, "picture" and "text"; in each a codec, what it costs at once, and Run for what it does.

    pipe: a pipeline of diffusers or its name, None for the first that the kit knows; model: a language model with its
    tokenizer, or its name, loaded when a sentence is first read; call: further arguments of the pipeline's call;
    new_tokens: how far the sentence is continued. As the panel opens, the noise of one picture is captured in a thread.
    The settings below can be set from code too; what does not fit raises an LsplitError.
    """

    prompt, seed, steps, guidance_scale = Setting(), Setting(), Setting(), Setting()
    sentence, head, tail = Setting(), Setting(), Setting()

    def __init__(
        self, pipe: Any = None, model: Any = "smollm2", prompt: str = "a red apple", seed: int = 0, steps: int = 20,
        guidance_scale: float = 3.0, sentence: str = "The capital of France is Paris, and the capital of Italy is",
        head: int = 2, tail: int = 2, codec: str = "int8", tab: str = "picture", new_tokens: int = 16,
        call: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        from ..models.names import picture_names

        self.announcer = Announcer(panel=".quant-lab", handles=".quant-knob .noUi-handle")
        self.pictures = NoiseTab(picture_names()[0] if pipe is None else pipe, codec, call, self._say)
        self.texts = ReadingTab(model, codec, new_tokens, self._say)
        self.controls = {**self.pictures.controls, **self.texts.controls}
        for name, control in self.controls.items():
            control.add_class(f"quant-{name}")
        self.tabs = W.Tab([self.pictures, self.texts], titles=("Picture", "Text"))
        super().__init__([W.HTML(STYLE, layout={"height": "0", "margin": "0"}), self.tabs, self.announcer])
        self.add_class("quant-lab")
        self.prompt, self.seed, self.steps, self.guidance_scale = prompt, seed, steps, guidance_scale
        self.sentence, self.head, self.tail = sentence, head, tail
        self.tab = tab
        for one in (self.pictures, self.texts):
            one.picker.observe(lambda change: self._name(), "spec")
        self._name()
        self.texts.worker.tell("Not run yet.")
        self.pictures.capture_noise()

    def _say(self, words: str) -> None:
        self.announcer.said = words

    def _name(self) -> None:
        """Tell screen readers what the two sliders are for now."""
        pickers = {"the picture's codec": self.pictures.picker, "the text's codec": self.texts.picker}
        self.announcer.names = [f"{picker.knob_name} of {whose}" for whose, picker in pickers.items()]

    @property
    def front(self) -> LabTab:
        """The tab that is in front."""
        return (self.pictures, self.texts)[self.tabs.selected_index or 0]

    @property
    def tab(self) -> str:
        """ "picture" or "text", whichever is in front."""
        return TABS[self.tabs.selected_index or 0]

    @tab.setter
    def tab(self, name: str) -> None:
        if name not in TABS:
            raise UnsupportedOption(f'tab takes "picture" or "text", got {name!r}.')
        self.tabs.selected_index = TABS.index(name)

    @property
    def codec(self) -> str:
        """The codec of the tab in front."""
        return self.front.picker.spec

    @codec.setter
    def codec(self, spec: str) -> None:
        self.front.picker.choose(spec)

    @property
    def text(self) -> str:
        """What the tab in front shows, in lines of at most 72 characters."""
        return self.front.text

    def run(self, wait: bool = True) -> Any:
        """Run the tab in front in a thread; waits and returns the picture, or what the model says next.

        None where the run did not finish, and at once with wait=False. What is under way is waited for first.
        """
        return self.front.run(wait)

    def wait(self) -> None:
        """Wait for what is under way in either tab, such as the capture at the opening."""
        for one in (self.pictures, self.texts):
            one.worker.wait()

    def cancel(self) -> None:
        """Ask the run of the tab in front to stop after the step that is being made."""
        self.front.worker.cancel()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle or {})
        png = self.front.png
        bundle |= {"image/png": base64.b64encode(png).decode("ascii"), "text/plain": self.text}
        return bundle, {"image/png": shown_at(png)}
