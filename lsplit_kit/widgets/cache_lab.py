"""CacheLab: choose a cache policy and two lengths, read what crosses and what is computed, step through a session."""

from __future__ import annotations

import base64
import textwrap
from numbers import Integral
from typing import Any

import ipywidgets as W
import traitlets

from ..errors import UnsupportedOption
from ..figures.cache_lab import Reply, caches_alt, caches_html, reply_alt, reply_png, traffic_html
from ..figures.paint import shown_at
from ..figures.recomputed import recomputed_alt
from .announcer import Announcer
from .readout import STYLE
from .settings import RANGES, Setting, field
from .split_explorer import language_model

POLICIES = {
    "none: all positions cross again": "none",
    "hidden: the host remembers vectors": "hidden",
    "kv: the host keeps keys and values": "kv",
}
NAMES = ["Prompt tokens", "New tokens", "Step of the session",
         "Play or pause", "Stop, and back to the first step", "Repeat"]  # fmt: skip
BEAT = 900  # milliseconds between two moments


class CacheLab(W.VBox):
    """A panel over one model: a cache policy, prompt and reply length, what that costs, and both caches step by step.

    model: a language model, or its name; head, tail: of the body whose FLOPs are counted. Nothing is run: all numbers
    are counted, as `measure.reply_bytes` and `measure.body_flops` say. The settings can be set from code too; what does
    not fit raises an LsplitError.
    """

    policy, prompt_tokens, new_tokens = Setting(), Setting(), Setting()

    def __init__(
        self, model: Any = "smollm2", policy: str = "kv", prompt_tokens: int = 20, new_tokens: int = 30, head: int = 2,
        tail: int = 2,
    ) -> None:  # fmt: skip
        from ..measure import body_size

        self.model = language_model(model)
        self.size = body_size(self.model, head, tail)
        self.width = int(self.model.config.get_text_config(decoder=True).hidden_size)
        self.announcer = Announcer(
            panel=".cache-lab", handles=".cache-knob .noUi-handle, .cache-play button", names=NAMES,
        )  # fmt: skip
        self._controls()
        self.charts, self.caches = W.HTML(), W.HTML()
        self.charts.add_class("cache-charts")
        self.caches.add_class("cache-caches")
        wrap = {"flex_flow": "row wrap"}
        super().__init__([
            W.HTML(STYLE, layout={"height": "0", "margin": "0"}),
            *(self.controls[name] for name in ("policy", "prompt_tokens", "new_tokens")), self.charts,
            W.HBox([self.stepper, self.play], layout=wrap), self.caches, self.announcer,
        ])  # fmt: skip
        self.add_class("cache-lab")
        self._moving = True
        self.policy, self.prompt_tokens, self.new_tokens = policy, prompt_tokens, new_tokens
        self._moving = False
        self._count()
        for control in self.controls.values():
            control.observe(lambda change: self._counted(), "value")
        self.stepper.observe(lambda change: self._stepped(), "value")

    def _controls(self) -> None:
        self.controls: dict[str, Any] = {
            "policy": field(W.Dropdown, "Cache policy", "What the host remembers", "420px",
                            options=list(POLICIES.items()), value="kv"),
        }  # fmt: skip
        for name, words, tip in (("prompt_tokens", "Prompt tokens", "Positions that the prefill sends"),
                                 ("new_tokens", "New tokens", "Tokens of the reply")):  # fmt: skip
            low, high = RANGES[name]
            self.controls[name] = field(W.IntSlider, words, tip, "auto", min=low, max=high, value=low)
        self.stepper = field(W.IntSlider, "Step", "A moment of a made-up session", "500px", min=1, max=1, value=1)
        self.play = W.Play(min=1, max=1, value=1, interval=BEAT, description="Play", tooltip="Step by step")
        for name, control in (*self.controls.items(), ("step", self.stepper), ("play", self.play)):
            control.add_class(f"cache-{name.replace('_', '-')}")
            control.layout.max_width = "calc(100% - 4px)"  # its margins
            if isinstance(control, W.IntSlider):
                control.add_class("cache-knob")
        traitlets.link((self.play, "value"), (self.stepper, "value"))

    @property
    def step(self) -> int:
        """The moment that is shown, from 1."""
        return int(self.stepper.value)

    @step.setter
    def step(self, number: int) -> None:
        last = len(self.reply.told)
        if not isinstance(number, Integral) or isinstance(number, bool) or not 1 <= number <= last:
            raise UnsupportedOption(f"step takes a whole number from 1 to {last}, got {number!r}.")
        self.stepper.value = int(number)

    def step_of(self, what: str) -> int:
        """The first step at which this happens: prefill, decode, draft, rollback, lost or replay; UnsupportedOption."""
        found = [moment.what for moment in self.reply.told]
        if what not in found:
            raise UnsupportedOption(f"This session has no {what!r}; it has {', '.join(dict.fromkeys(found))}.")
        return found.index(what) + 1

    def _counted(self) -> None:
        if not self._moving:
            self._count()
            self.announcer.said = reply_alt(self.reply)

    def _count(self) -> None:
        """Ask the measures for the reply that the controls name, and show it."""
        from .. import measure

        policy, prompt, new = self.policy, self.prompt_tokens, self.new_tokens
        number = self.model.dtype.itemsize
        self.reply = Reply(
            policy, prompt, new, self.width * number, measure.cache_table(policy, prompt, new, self.width, number),
            {name: measure.body_flops(name, prompt, new, self.size) for name in POLICIES.values()},
            tuple(measure.story(policy, prompt, new)), measure.reaches(prompt),
        )  # fmt: skip
        self._moving = True
        try:
            for stepper in (self.play, self.stepper):
                stepper.max = len(self.reply.told)
        finally:
            self._moving = False
        self.charts.value = traffic_html(self.reply)
        self._draw()

    def _stepped(self) -> None:
        if not self._moving:
            self._draw()
            if not self.play.playing:  # a screen reader cannot keep up with the animation
                self.announcer.said = caches_alt(self.reply.told, self.step - 1, self.policy)

    def _draw(self) -> None:
        self.caches.value = caches_html(self.reply, self.step - 1)

    @property
    def text(self) -> str:
        """What there is to see, in lines of at most 72 characters."""
        parts = reply_alt(self.reply), recomputed_alt(self.reply.flops)
        said = " ".join((*parts, caches_alt(self.reply.told, self.step - 1, self.policy)))
        return textwrap.fill(said, 72)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle or {})
        png = reply_png(self.reply, self.step - 1)
        bundle |= {"image/png": base64.b64encode(png).decode("ascii"), "text/plain": self.text}
        return bundle, {"image/png": shown_at(png)}
