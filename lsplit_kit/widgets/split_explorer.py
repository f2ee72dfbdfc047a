"""SplitExplorer: move the two cuts, read what each machine carries and what crosses, and run exactly that plan."""

from __future__ import annotations

import base64
import os
import textwrap
import threading
from typing import Any

import ipywidgets as W
import traitlets

from ..figures.paint import shown_at
from ..figures.stack import INSET, stack_alt, stack_png, stack_svg
from ..quantization import codec as codec_of
from ..quantization import lossless
from ..split.graft import decoder_of
from ..split.plan import SplitPlan
from .announcer import Announcer
from .readout import STYLE, human, readout_html, reply_html, sides

# The track begins and ends where the picture's decoder layers do; 14 and 6 pixels are ipywidgets' own margins.
LEFT = {"description_width": f"{INSET - 14}px"}
TEMPLATE = "The prompt went through the model's chat template, which adds tokens of its own."


class SplitExplorer(W.VBox):
    """A panel over one model: two slider handles are the cuts; `head` and `tail` can be set from code too.

    body: None (this process), "loopback" or an address, as in `split`; certificate: too. codec: a spec,
    (up, down), or None for lossless.
    """

    head = traitlets.Int(2, help="decoder layers before the body; clipped so that the body keeps one")
    tail = traitlets.Int(2, help="decoder layers after the body; clipped so that the body keeps one")

    def __init__(
        self, model: Any = "smollm2", head: int = 2, tail: int = 2,
        prompt: str = "Explain in one sentence why the sky is blue.", max_new_tokens: int = 24,
        codec: str | tuple[str, str] | None = None, body: Any = None,
        certificate: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        self.model = language_model(model)
        base, name = decoder_of(self.model)
        self.layers = len(getattr(base, name))
        self.codec, self.body, self.certificate, self.max_new_tokens = codec, body, certificate, max_new_tokens
        pair = (codec, codec) if isinstance(codec, str) or codec is None else codec
        self.codecs = tuple(spec or lossless(self.model.dtype) for spec in pair)
        shape = (1, 1, self.model.config.get_text_config(decoder=True).hidden_size)
        self.up, self.down = (codec_of(spec).payload_bytes(shape) for spec in self.codecs)
        self._thread: threading.Thread | None = None
        self._stop, self._moving = threading.Event(), True
        self._reply = ""
        self._controls(prompt)
        super().__init__([self.slider, self.picture, self.readout, self.prompt,
                          W.HBox([self.run_button, self.cancel_button]), self.output, self.announcer])  # fmt: skip
        self.add_class("split-explorer")
        self._moving = False
        self._move(head, tail)
        self.slider.observe(self._slid, "value")
        self.observe(lambda change: self._render(), ["head", "tail"])

    def _controls(self, prompt: str) -> None:
        n = self.layers
        self.slider = W.IntRangeSlider(
            value=(0, n), min=0, max=n, step=1, description="Two cuts", style=LEFT, continuous_update=True,
            readout=False, layout={"width": "auto", "margin": f"2px {INSET - 6}px 2px 0"},
            tooltip="The first handle ends the head, the second one starts the tail",
        )  # fmt: skip
        self.slider.add_class("split-slider")
        self.picture = W.HTML(layout={"width": "auto", "margin": "0"})
        self.announcer = Announcer(names=["First cut: layers of the head", "Second cut: where the tail begins"])
        self.readout = W.HTML()
        self.prompt = W.Text(value=prompt, description="Prompt", style=LEFT, layout={"width": "auto"})
        self.run_button = W.Button(description="Run", icon="play", button_style="primary",
                                   tooltip="Split the model with this plan and generate")  # fmt: skip
        self.cancel_button = W.Button(description="Cancel", icon="stop", disabled=True,
                                      tooltip="Stop after the token that is being made")  # fmt: skip
        self.output = W.HTML(reply_html("", "Not run yet."))
        self.run_button.add_class("split-run")
        self.cancel_button.add_class("split-cancel")
        self.output.add_class("split-output")
        self.run_button.on_click(lambda button: self.run(wait=False))
        self.cancel_button.on_click(lambda button: self.cancel())

    @traitlets.validate("head", "tail")
    def _fit(self, proposal: Any) -> int:
        other = self.tail if proposal["trait"].name == "head" else self.head
        return min(max(proposal["value"], 0), self.layers - 1 - (0 if self._moving else other))

    def _move(self, head: int, tail: int) -> None:
        head = min(max(head, 0), self.layers - 1)
        tail = min(max(tail, 0), self.layers - 1 - head)
        self._moving = True  # both change together: neither is held back by the other's old value
        try:
            self.head, self.tail = head, tail
        finally:
            self._moving = False
        self._render()

    def _slid(self, change: Any) -> None:
        low, high = change["new"]
        if low == high:  # handles that meet leave no body: the one that moved is held back
            if change["old"][1] != high and low < self.layers:
                high = low + 1
            elif low > 0:
                low = high - 1
        self._move(low, self.layers - high)

    def _render(self) -> None:
        if self._moving:
            return
        self._moving = True
        try:
            self.slider.value = (self.head, self.layers - self.tail)
        finally:
            self._moving = False
        table = self.plan.table(self.model)
        self.picture.value = STYLE + stack_svg(self.layers, self.head, self.tail, self.up, self.down)
        self.readout.value = readout_html(table, self.up, self.down, *self.codecs)
        local, host = (human(sides(table)[side]["memory_bytes"], "B") for side in ("local", "host"))
        body = self.layers - self.head - self.tail
        self.announcer.said = (
            f"Head {self.head}, body {body}, tail {self.tail}; weights {local} on the local side, {host} on the host."
        )

    @property
    def plan(self) -> SplitPlan:
        """The plan that the two handles stand for."""
        return SplitPlan(self.head, self.tail)

    @property
    def text(self) -> str:
        """One sentence that describes the state, in lines of at most 72 characters."""
        by = sides(self.plan.table(self.model))
        memory = {side: human(by[side]["memory_bytes"], "B") for side in by}
        said = stack_alt(self.layers, self.head, self.tail, self.up, self.down).removesuffix(".")
        said += f"; the weights take {memory['local']} on the local side and {memory['host']} on the host."
        return textwrap.fill(said, 72)

    def run(self, wait: bool = True) -> str:
        """Generate with exactly this plan in a thread; waits for it and returns the reply unless `wait` is False."""
        if self._thread is None or not self._thread.is_alive():
            self._stop.clear()
            self._reply = ""
            self.run_button.disabled, self.cancel_button.disabled = True, False
            self.output.value = reply_html("", f"Splitting the model: {self.plan} ...")
            args = (self.plan, self.prompt.value)
            self._thread = threading.Thread(target=self._work, args=args, name="split-explorer", daemon=True)
            self._thread.start()
        if wait:
            self._thread.join()
        return self._reply

    def cancel(self) -> None:
        """Ask the run to stop after the token that is being made; does nothing when none runs."""
        self._stop.set()

    def _work(self, plan: SplitPlan, prompt: str) -> None:
        from ..face import split  # the verb: a panel runs the kit the way its reader would
        from .streaming import Progress, generate

        def report(progress: Progress) -> None:
            note = TEMPLATE if progress.template else ""
            self.output.value = reply_html(progress.text, f"Running {plan}: {progress.traffic}.", note=note)

        done = Progress(error="The run ended early.")
        try:
            tokenizer = getattr(self.model, "lsplit_tokenizer", lambda: None)()
            done = generate(
                lambda: split(self.model, plan, body=self.body, codec=self.codec, certificate=self.certificate),
                tokenizer, prompt, self.max_new_tokens, self._stop, report,
            )  # fmt: skip
        finally:
            self._reply = done.text
            state = "Cancelled" if done.cancelled else "Done"
            status = done.error or f"{state}, {plan}: {done.traffic}."
            note = TEMPLATE if done.template else ""
            self.output.value = reply_html(done.text, status, failed=bool(done.error), note=note)
            self.announcer.said = f"{status} {done.text}"
            self.run_button.disabled, self.cancel_button.disabled = False, True

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle or {})
        picture = stack_png(self.layers, self.head, self.tail, self.up, self.down)
        bundle["image/png"] = base64.b64encode(picture).decode("ascii")
        bundle["text/plain"] = self.text
        return bundle, {"image/png": shown_at(picture)}


def language_model(model: Any) -> Any:
    """A language model without its tokenizer, or the one of this name."""
    if isinstance(model, str):
        from ..models.load import load

        model = load(model)
    return model[0] if isinstance(model, tuple) else model
