"""`show(fig, png, alt)`: one output that is a live figure, a picture and a sentence, whichever the viewer can use."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from .paint import shown_at

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Shown:
    """A figure (None: only a picture), its PNG bytes (None: no picture) and its sentence, as Jupyter displays it."""

    def __init__(self, figure: go.Figure | None, png: bytes | None, alt: str) -> None:
        self.figure, self.png, self.alt = figure, png, alt

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle: dict[str, Any] = {"text/plain": self.alt}
        if self.figure is not None:
            bundle["application/vnd.plotly.v1+json"] = json.loads(self.figure.to_json())
        if self.png is not None:
            bundle["image/png"] = base64.b64encode(self.png).decode("ascii")
        # Beside a plotly figure the picture has one pixel for each unit already; alone it is as sharp as a screen.
        alone = self.figure is None and self.png is not None
        return bundle, {"image/png": shown_at(self.png)} if alone and self.png else {}


def show(figure: go.Figure | None, png: bytes | None = None, alt: str = "") -> Shown:
    """The figure as a cell's last value: plotly JSON, image/png and text/plain; raises ValueError without `alt`."""
    if not alt.strip():
        raise ValueError("Give alt=, one sentence that says what the figure shows.")
    return Shown(figure, png, alt)
