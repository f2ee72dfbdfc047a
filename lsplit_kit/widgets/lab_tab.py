"""What both tabs of QuantLab share: settings, a codec, a worker, and what the codec costs on captured tensors."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from ..figures.lab import Tried, lab_png, tried_alt, tried_html
from ..figures.plane import PAPER_CODEC
from .codec_picker import CodecPicker
from .worker import Worker

if TYPE_CHECKING:
    from torch import Tensor

    from ..measure.rate import RatePoint

VISITED = 24  # points that stay on the plane


class LabTab(W.VBox):
    """One tab: `controls` by name, `picker`, `worker`; `charts` follow the codec, `output` is of the last run."""

    seen: Any  # Coded or Reading

    def __init__(
        self, name: str, rows: Sequence[Sequence[Any]], codec: str, predicts: bool, tooltip: str,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.picker = CodecPicker(codec, self._refused, predicts, calibrated=False)
        self.worker = Worker(f"quant-{name}", tooltip, lambda: self.run(wait=False), say)
        self.charts, self.output = W.HTML(), W.HTML()
        self.charts.add_class(f"quant-{name}-charts")
        self.output.add_class(f"quant-{name}-output")
        self.tried, self._sessions = Tried(), ()
        self._visited: dict[str, RatePoint] = {}
        self._lock = threading.Lock()  # the worker captures while the page moves the slider
        super().__init__([
            *(row[0] if len(row) == 1 else W.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows),
            self.picker, self.worker, self.charts, self.output,
        ])  # fmt: skip
        self.add_class(f"quant-{name}-tab")
        self.picker.observe(lambda change: self._follow(), "spec")

    def job(self) -> str:
        """Do what Run asks for; returns what a screen reader hears."""
        raise NotImplementedError

    def result(self) -> Any:
        """What `run` returns; None where the run did not finish."""
        raise NotImplementedError

    def said(self) -> str:
        """One sentence about the last run."""
        raise NotImplementedError

    def bound(self, spec: str) -> str:
        """The spec as it is tried on what was captured."""
        return spec

    def begin(self) -> None:
        """Forget what the last run gave."""

    def run(self, wait: bool = True) -> Any:
        """Run in a thread; waits, for what is under way too, and returns the result; with wait=False, None at once."""
        if wait:
            self.worker.wait()
        if not self.worker.busy:
            self.begin()
            self.worker.start(self.job)
        if not wait:
            return None
        self.worker.wait()
        return self.result()

    @property
    def text(self) -> str:
        """What there is to see, and why a run ended early if it did, in lines of at most 72 characters."""
        return textwrap.fill(" ".join(filter(None, (self.said(), tried_alt(self.tried), self.worker.why))), 72)

    @property
    def png(self) -> bytes:
        """What there is to see as PNG bytes."""
        return lab_png(self.tried, self.seen)

    def capture(self, sessions: Sequence[Any], about: str, **drawn: Tensor) -> None:
        """Take tensors to try codecs on, and what to draw of them (values=, hidden=); earlier points are forgotten."""
        with self._lock:
            self._sessions, self._visited = tuple(sessions), {}
            self.tried = Tried(about=about, **drawn)
        self.refresh()

    def refresh(self) -> str:
        """Put the codec in force on the plane; returns its sentence, empty where nothing was captured."""
        from ..measure.rate import rate_point
        from .streaming import sentence

        with self._lock:
            if not self._sessions:
                return ""
            spec = self.picker.spec
            try:
                for one in (PAPER_CODEC, spec):
                    if one not in self._visited:
                        self._visited[one] = {**rate_point(self.bound(one), *self._sessions), "codec": one}
                self._visited[spec] = self._visited.pop(spec)  # the newest is the last
                old = [one for one in self._visited if one != PAPER_CODEC][:-VISITED]
                self._visited = {one: row for one, row in self._visited.items() if one not in old}
                tried = replace(self.tried, rows=tuple(self._visited.values()), now=spec)
                html = tried_html(tried)
            except Exception as error:  # a value that the codec cannot hold
                self._visited.pop(spec, None)
                self._refused(sentence(error))
                return ""
            self.tried, self.charts.value = tried, html
        return tried_alt(tried)

    def _follow(self) -> None:
        self._refused("")
        said = self.refresh()
        if said and not self.worker.busy:
            self.worker.said(said)

    def _refused(self, words: str) -> None:
        """Show a sentence about a codec, or "" when it is mended, unless a run has more to say."""
        if not self.worker.busy and (words or self.worker.why):
            self.worker.tell(words or "Ready.", failed=bool(words))


def values_of(controls: Mapping[str, Any]) -> dict[str, Any]:
    """What the controls say, by name."""
    return {name: control.value for name, control in controls.items()}
