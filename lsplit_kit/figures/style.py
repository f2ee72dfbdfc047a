"""Colours that everybody can tell apart (Okabe-Ito), and the look that light and dark pages share."""

from __future__ import annotations

from typing import Any

HEAD, BODY, TAIL = "#0072B2", "#E69F00", "#009E73"
COLOURS = {"head": HEAD, "body": BODY, "tail": TAIL}
# The second cue, for readers who cannot use the colours.
PATTERNS = {"head": "/", "body": ".", "tail": "\\"}
# The grey whose contrast with white and with JupyterLab's dark background is the same, about 4.3 to 1.
GREY = "#797979"
CLEAR = "rgba(0,0,0,0)"


def layout(height: int, **more: Any) -> dict[str, Any]:
    """The layout options that all figures share; height in pixels."""
    return {
        "template": "none",
        "height": height,
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"color": GREY, "size": 13},
        "margin": {"l": 40, "r": 40, "t": 10, "b": 40},
        **more,
    }
