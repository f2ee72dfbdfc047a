"""Hatched boxes on a sketch: the second cue beside a colour."""

from __future__ import annotations

from .sketch import Sketch

GAP = 6.0  # units between two lines


def hatch(
    sheet: Sketch, left: float, top: float, right: float, bottom: float, colour: str, lean: str = "/", gap: float = GAP
) -> None:
    """Draw lines across a box, leaning "/" or "\\\\" or both ("x")."""
    tall = bottom - top
    for way in "/\\" if lean == "x" else lean:
        start = left - tall
        # The lines stand at multiples of the gap, so that boxes side by side share one hatching.
        start -= start % gap
        while start < right:
            low, high = max(left, start), min(right, start + tall)
            if high - low > 0.5:
                ends = (bottom - (low - start), bottom - (high - start))
                if way == "\\":
                    ends = (top + (low - start), top + (high - start))
                sheet.line(low, ends[0], high, ends[1], colour)
            start += gap


def frame(
    sheet: Sketch, left: float, top: float, right: float, bottom: float, colour: str = "", dashed: bool = False
) -> None:
    """The outline of a box."""
    for x, y, x2, y2 in ((left, top, right, top), (right, top, right, bottom), (right, bottom, left, bottom),
                         (left, bottom, left, top)):  # fmt: skip
        sheet.line(x, y, x2, y2, colour, dashed=dashed)
