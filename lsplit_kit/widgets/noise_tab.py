"""The picture tab of QuantLab: the noise of one run is captured as the panel opens, and every codec is tried on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as W

from ..errors import UnsupportedModel
from ..figures.lab import Coded, coded_alt, coded_html
from ..figures.stack import counted
from .lab_tab import LabTab, values_of
from .picture_split import KEPT, pipeline
from .settings import checked, field


class NoiseTab(LabTab):
    """A pipeline (or its name), and a picture made through the codec beside the same without."""

    def __init__(self, pipe: Any, codec: str, call: Mapping[str, Any] | None, say: Callable[[str], None]) -> None:
        from ..models.names import is_picture

        if isinstance(pipe, str) and not is_picture(pipe):
            raise UnsupportedModel(f"{pipe!r} is a language model; give QuantLab a pipeline, and that one as model=.")
        self.pipe = pipe if isinstance(pipe, str) else pipeline(pipe, "QuantLab")
        self.call, self.seen = call, Coded()
        self._kept: dict[str, Any] = {}
        self.controls: dict[str, Any] = {
            "prompt": field(W.Text, "Prompt", "What the picture shows", "auto"),
            "seed": field(W.BoundedIntText, "Seed", "Of the first noise; the same for both", min=0, max=2**31 - 1),
            "steps": field(W.BoundedIntText, "Steps", "Denoising steps", value=1, min=1, max=999),
            "guidance_scale": field(W.BoundedFloatText, "Guidance scale", "How closely the picture follows the prompt",
                                    min=0, max=100, step=0.5),
        }  # fmt: skip
        prompt, *others = self.controls.values()
        super().__init__("picture", [[prompt], others], codec, True, "Make the picture with this codec", say)
        self.output.value = coded_html(self.seen)

    def capture_noise(self) -> None:
        """Capture the noise of the settings as they are, in the worker."""
        settings = values_of(self.controls)

        def job() -> str:
            self._original(settings)
            return self.refresh()

        self.worker.start(job, "Ready.")

    def begin(self) -> None:
        """Forget the last picture."""
        self.seen = Coded()

    def result(self) -> Any:
        """The picture made through the codec."""
        return self.seen.ours

    def said(self) -> str:
        """One sentence about the pictures."""
        return coded_alt(self.seen)

    def job(self) -> str:
        """Make the picture without the codec, where it is not known yet, and with it."""
        from ..measure import difference, picture_quality

        settings, spec = values_of(self.controls), self.picker.spec
        checked("prompt", settings["prompt"], [])
        whole = self._original(settings)
        run = self._run(settings, spec, f"With {spec}")
        apart, largest = difference(run.picture, whole)
        try:
            quality: Any = picture_quality({"coded": run.picture}, whole).loc["coded"].to_dict()
        except Exception as error:  # a picture too small to compare is still shown
            quality = str(error).rstrip(".")
        self.seen = Coded(**settings, codec=spec, whole=whole, ours=run.picture, apart=apart, largest=largest,
                          quality=quality, payload=run.payload, bits=run.bits)  # fmt: skip
        self.output.value = coded_html(self.seen)
        return coded_alt(self.seen)

    def _run(self, settings: Mapping[str, Any], spec: str | None, words: str) -> Any:
        from ..measure import picture_run
        from ..models.toy_pipes import toy_pipe_call

        if isinstance(self.pipe, str):
            self.worker.step(0, 1, f"Loading {self.pipe}")
            self.pipe = pipeline(self.pipe, "QuantLab")
        call = toy_pipe_call(getattr(self.pipe, "lsplit_name", "")) if self.call is None else self.call

        def note(step: int, of: int) -> None:
            self.worker.step(step, of, words)

        note(0, settings["steps"])
        return picture_run(self.pipe, **settings, codec=spec, note=note, **call)

    def _original(self, settings: Mapping[str, Any]) -> Any:
        """The picture without a codec; the first one's noise is what codecs are tried on."""
        key = repr((settings, self.call))
        if key not in self._kept or not self._sessions:
            run = self._run(settings, None, "Without a codec" if self._sessions else "Capturing the noise")
            if not self._sessions:
                middle = (len(run.noise) - 1) // 2
                about = (
                    f'Tried on the noise of "{" ".join(settings["prompt"].split())}", seed {settings["seed"]}, '
                    f"{counted(len(run.noise), 'step')}; the histogram is of step {middle + 1}."
                )
                self.capture([run.noise], about, values=run.noise[middle])
            self._kept[key] = run.picture
        self._kept[key] = self._kept.pop(key)  # the newest is the last
        self._kept = dict([*self._kept.items()][-KEPT:])
        return self._kept[key]
