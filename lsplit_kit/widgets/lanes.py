"""The lanes of WireTap on the page: an SVG whose bars can be clicked."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets


class LanesView(anywidget.AnyWidget):
    """Shows `html`; `clicked` is the bar that was clicked last (its crossing, -1: none), and the number of clicks."""

    _esm = Path(__file__).with_name("lanes.js").read_text("utf-8")
    html = traitlets.Unicode().tag(sync=True)
    clicked = traitlets.List(traitlets.Int(), default_value=[-1, 0], minlen=2, maxlen=2).tag(sync=True)
