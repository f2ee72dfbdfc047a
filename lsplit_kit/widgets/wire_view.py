"""What WireTap shows of a tap or a capture: lanes, totals, and one crossing that a slider, a click or code chooses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ipywidgets as W
import traitlets

from ..errors import UnsupportedOption
from ..figures.lanes import CLOCK, STEPS, Lanes, crossing_words, is_control, lanes_svg
from ..figures.vector import vector_html
from ..figures.wire import control_bytes, totals_html, wire_alt, wire_png
from ..wire.ledger import totals
from .lanes import LanesView
from .settings import field

if TYPE_CHECKING:
    import pandas as pd

    from ..measure.crossing import Look, Past

EVERY, SHARE = (
    0.2,
    10.0,
)  # while crossings come in: seconds from one drawing to the next, and so many times what it took


class WireView(W.VBox):
    """Draws `source`, anything with `crossings`; `chosen` is a crossing's number from 0, -1 where there is none.

    `vector` is which vector of the chosen crossing is plotted. While `follow` is set, the newest crossing is chosen.
    """

    chosen = traitlets.Int(-1, help="the crossing that is looked at; clipped to what there is")
    vector = traitlets.Int(0, help="the vector of it that is plotted; clipped to what there is")

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.follow = say, True
        self.source: Any = None
        self.seen: Look | None = None
        self.lanes = Lanes()
        self._lock, self._moving = threading.RLock(), False
        self._drawn = self._took = 0.0
        self._past: Past = {}
        self.chooser = field(W.IntSlider, "Crossing", "Which crossing is shown below", "auto", min=0, max=0,
                             disabled=True)  # fmt: skip
        self.stepper = field(W.IntSlider, "Vector", "Which vector of the crossing is plotted", "auto", min=0, max=0,
                             disabled=True)  # fmt: skip
        self.across = field(W.Dropdown, "Across", "Steps, or the emulated link's clock", options=[STEPS])
        self.picture, self.sums, self.detail = LanesView(), W.HTML(), W.HTML()
        for name, part in (("chooser", self.chooser), ("stepper", self.stepper), ("across", self.across),
                           ("sums", self.sums), ("detail", self.detail)):  # fmt: skip
            part.add_class(f"wire-{name}")
        for slider in (self.chooser, self.stepper):
            slider.add_class("wire-knob")
        super().__init__([self.sums, self.across, self.picture, self.chooser, self.stepper, self.detail])
        self.chooser.observe(lambda change: self._asked("chosen", change["new"]), "value")
        self.stepper.observe(lambda change: self._asked("vector", change["new"]), "value")
        self.picture.observe(lambda change: self._asked("chosen", change["new"][0]), "clicked")
        self.across.observe(lambda change: self.draw(), "value")
        self.observe(lambda change: self._follow_traits(), ["chosen", "vector"])
        self.draw()

    @traitlets.validate("chosen")
    def _fit(self, proposal: Any) -> int:
        many = len(self.lanes.crossings)
        return min(max(proposal["value"], 0), many - 1) if many else -1

    @traitlets.validate("vector")
    def _fit_vector(self, proposal: Any) -> int:
        return min(max(proposal["value"], 0), max((self.seen.vectors if self.seen else 0) - 1, 0))

    def show(self, source: Any, follow: bool = True) -> None:
        """Draw another tap or capture; the first step is chosen, or with `follow` always the newest crossing."""
        with self._lock:
            self.source, self.follow, self.seen, self._past = source, follow, None, {}
            self._moving, self.lanes = True, Lanes()
            self.chosen, self._moving = -1, False
        self.draw()

    def heard(self) -> None:
        """Draw what came in, unless that was done just now."""
        if time.monotonic() - self._drawn >= max(EVERY, SHARE * self._took):
            self.draw()

    def draw(self) -> None:
        """Draw everything that there is."""
        began = time.monotonic()
        with self._lock:
            crossings = tuple(self.source.crossings) if self.source is not None else ()
            clock = tuple(getattr(self.source, "clock", ()))[: len(crossings)]
            timed = bool(crossings) and len(clock) == len(crossings)
            self._moving = True
            try:
                options = (STEPS, CLOCK) if timed else (STEPS,)
                if self.across.options != options:
                    kept = self.across.value
                    self.across.options = options
                    self.across.value = kept if kept in options else STEPS
                old = self.chosen
                self.lanes = Lanes(crossings, clock if timed else (), -1, self.across.value)
                first = next((i for i, c in enumerate(crossings) if not is_control(c)), 0)
                self.chosen = len(crossings) - 1 if self.follow else old if old >= 0 else first
                self._look(at=None if self.chosen != old else self.vector)
                self._put()
            finally:
                self._moving = False
            self.sums.value = totals_html(self.totals(), control_bytes(crossings), self._counters())
            self._drawn = time.monotonic()
            self._took = self._drawn - began

    def totals(self) -> pd.DataFrame:
        """Tensor, payload and frame bytes by direction of all crossings that are drawn."""
        return totals(self.lanes.crossings)

    @property
    def alt(self) -> str:
        """What is to be seen, in words."""
        return wire_alt(self.lanes, self.totals(), self.seen)

    @property
    def png(self) -> bytes:
        """What is to be seen, as PNG bytes."""
        return wire_png(self.lanes, self.totals(), self.seen)

    def choose_across(self, what: object) -> None:
        """Set what x is, "step" or "clock"; raises UnsupportedOption where there is no clock."""
        if what not in self.across.options:
            raise UnsupportedOption(f'across takes "step", or "clock" after a run over an emulated link; got {what!r}.')
        self.across.value = what

    def _counters(self) -> dict[str, tuple[int, int]]:
        return self.source.counters() if self.lanes.crossings and hasattr(self.source, "counters") else {}

    def _asked(self, name: str, value: int) -> None:
        with self._lock:  # a run may be drawing: what a reader asks for meanwhile is not lost
            if not self._moving:
                setattr(self, name, value)

    def _follow_traits(self) -> None:
        """A reader, or code, chose a crossing or a vector."""
        with self._lock:
            if self._moving:
                return
            self._moving = True
            try:
                self.follow = self.chosen == len(self.lanes.crossings) - 1
                old = self.seen.index if self.seen else -1
                self._look(at=None if self.chosen != old else self.vector)
                self._put()
            finally:
                self._moving = False
        if self.seen is not None:
            self.say(f"Crossing {self.chosen}: {crossing_words(self.seen.crossing)}.")

    def _look(self, at: int | None) -> None:
        from ..measure.crossing import look

        self.lanes = replace(self.lanes, chosen=self.chosen)
        self.seen = look(self.lanes.crossings, self.chosen, at, self._past) if self.chosen >= 0 else None
        self.vector = self.seen.at if self.seen else 0

    def _put(self) -> None:
        """Make sliders, lanes and detail say what is chosen."""
        for slider, many, value in ((self.chooser, len(self.lanes.crossings), self.chosen),
                                    (self.stepper, self.seen.vectors if self.seen else 0, self.vector)):  # fmt: skip
            top = max(many - 1, 0)
            if slider.max < top:
                slider.max = top
            slider.value = max(value, 0)
            slider.max, slider.disabled = top, many < 2
        self.picture.html = lanes_svg(self.lanes)
        self.detail.value = vector_html(self.seen) if self.seen is not None else ""
