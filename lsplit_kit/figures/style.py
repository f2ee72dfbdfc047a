"""Colours that everybody can tell apart (Okabe-Ito), and the look that light and dark pages share."""

from __future__ import annotations

from typing import Any

HEAD, BODY, TAIL = "#0072B2", "#E69F00", "#009E73"
COLOURS = {"head": HEAD, "body": BODY, "tail": TAIL}
# The second cue, for readers who cannot use the colours.
PATTERNS = {"head": "/", "body": ".", "tail": "\\"}
# No grey reaches a contrast of 4.5 to 1 on white and on JupyterLab's dark page alike (the best is 4.35), so pictures
# bring their own paper.
INK, PAPER = "#333333", "#ffffff"


def layout(height: int, **more: Any) -> dict[str, Any]:
    """The layout options that all figures share; height in pixels."""
    return {
        "template": "none",
        "height": height,
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "font": {"color": INK, "size": 13},
        "margin": {"l": 40, "r": 40, "t": 10, "b": 40},
        **more,
    }
