"""What a panel tells a screen reader: names for the slider's handles, and one sentence when something changed."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets


class Announcer(anywidget.AnyWidget):
    """An unseen part of a panel; setting `said` reads that sentence out, `names` are those of the handles, in order."""

    _esm = Path(__file__).with_name("announcer.js").read_text("utf-8")
    said = traitlets.Unicode().tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    panel = traitlets.Unicode(".split-explorer", help="CSS selector of the panel around it").tag(sync=True)
    handles = traitlets.Unicode(".split-slider .noUi-handle", help="CSS selector of the handles").tag(sync=True)
