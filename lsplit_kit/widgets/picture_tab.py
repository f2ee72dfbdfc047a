"""The picture tab of AttackArena: which picture an attack paints of a recorded run, step by step."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import ipywidgets as W

from ..attacks.pictures.recorded import PAINTERS, RecordedPictures, recorded_pictures
from ..data.captures import picture_captures
from ..errors import LsplitError
from ..figures.painting import Canvas, canvas_alt, canvas_html, canvas_png, painters_html
from ..wire.view import OBSERVERS
from .choice import Choice
from .settings import field
from .streaming import sentence

ABOUT = "The attackers have the public pipeline, prompts of their own, and know cut and codec. Results are recorded."


class PictureTab(W.VBox):
    """Menus of observer, attack, cut and picture, a slider of steps; sees: observers with their words, for the menu.

    observer, attack, recording (a name in `data.picture_captures()`), number and step can be set from code; what is not
    offered raises an UnsupportedOption. What an attack would refuse is shown as its sentence.
    """

    observer, attack, recording, number, step = (Choice() for _ in range(5))

    def __init__(self, sees: dict[str, str], say: Callable[[str], None]) -> None:
        self._say, self._quiet = say, True
        there = picture_captures()
        prompts = recorded_pictures(there[0].name).prompts
        steps = len(recorded_pictures(there[0].name).strips["MeanPicture"][0].pictures)
        self.controls: dict[str, Any] = {
            "observer": field(W.Dropdown, "Observer", "Who sees which crossings",
                              options=[(words, name) for name, words in sees.items()]),
            "attack": field(W.Dropdown, "Attack", "From no look at the wire to the public head run backwards",
                            options=list(PAINTERS), value="ReplaySampler"),
            "recording": field(W.Dropdown, "Cut", "Where the denoiser is cut, and how numbers cross", "420px",
                               options=[(f"{r.place}, {r.codec}", r.name) for r in there]),
            "number": field(W.Dropdown, "Picture", "Which of the recorded pictures",
                            options=[(f"{n}: {row.prompt}", n) for n, row in enumerate(prompts, 1)]),
            "step": field(W.SelectionSlider, "Step", "After which step the attack paints", "420px",
                          options=list(range(1, steps + 1)), value=steps),
        }  # fmt: skip
        for name, control in self.controls.items():
            control.add_class(f"paint-{name}")
            control.layout.max_width = "calc(100% - 4px)"  # its margins
            control.observe(lambda change: self._changed(), "value")
        self.charts, self.table = W.HTML(), W.HTML()
        self.charts.add_class("paint-charts")
        wrap = {"flex_flow": "row wrap"}
        rows = [("observer", "attack"), ("recording", "number"), ("step",)]
        super().__init__([
            *(W.HBox([self.controls[name] for name in row], layout=wrap) for row in rows), self.charts, self.table,
            W.HTML(f"<p class='paint-note' style='line-height:1.5;margin:4px 0'>{ABOUT}</p>"),
        ])  # fmt: skip
        self.add_class("paint-tab")
        self._quiet = False
        self._show()

    @property
    def found(self) -> RecordedPictures:
        """The recording that is shown."""
        return recorded_pictures(self.recording)

    @property
    def text(self) -> str:
        """What there is to see, in lines of at most 72 characters."""
        return textwrap.fill(canvas_alt(self.canvas), 72)

    @property
    def png(self) -> bytes:
        """The same as PNG bytes."""
        return canvas_png(self.canvas)

    def _changed(self) -> None:
        if not self._quiet:
            self._show()
            self._say(canvas_alt(self.canvas))

    def _show(self) -> None:
        """Look up what the controls name."""
        found, number, rows, refused = self.found, self.number - 1, [], {}
        self.canvas = Canvas(self.attack, self.observer, f"{found.about.place}, {found.about.codec}")
        for name in PAINTERS:
            try:
                strip = found.strip(name, self.observer, number)
            except LsplitError as error:
                refused[name] = sentence(error)
                continue
            cost, count = found.costs[name], len(found.prompts)
            seconds = (cost.fit_seconds, cost.read_seconds / count)
            assert strip.psnr and strip.ssim
            rows.append({"attack": name, "psnr": strip.psnr[-1], "ssim": strip.ssim[-1], "fit_seconds": seconds[0],
                         "seconds": seconds[1]})  # fmt: skip
            if name == self.attack:
                read = found.prompts[number] if "up" in OBSERVERS[self.observer] else None
                self.canvas = Canvas(name, self.observer, self.canvas.place, strip, self.step - 1, seconds, read)
        if self.attack in refused:
            self.canvas = Canvas(self.attack, self.observer, self.canvas.place, why=refused[self.attack])
        self.charts.value = canvas_html(self.canvas)
        self.table.value = painters_html(rows, self.attack, refused)
