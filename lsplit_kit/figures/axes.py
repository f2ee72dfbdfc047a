"""The frame of a chart: scales, round ticks, and places for labels that do not meet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .sketch import FONT, Sketch

WIDE = 7.0  # units that a character takes of a line
Box = tuple[float, float, float, float]  # left, top, right, bottom
# Where a label may stand, tried in this order: steps from its point to its baseline, and how much of its width to go
# back.
PLACES = (
    (10, 4, 0.0), (10, -7, 0.0), (10, 15, 0.0), (-12, 4, 1.0), (-12, -7, 1.0), (-12, 15, 1.0), (0, -11, 0.5),
    (0, 21, 0.5), (10, 26, 0.0), (-12, -18, 1.0),
)  # fmt: skip


class Axes:
    """A frame on a sketch with a scale for x and one for y; `x(value)` and `y(value)` are units."""

    def __init__(
        self, sheet: Sketch, x_range: tuple[float, float], y_range: tuple[float, float], x_title: str, y_title: str,
        log_y: bool = False, left: float = 46, right: float = 12, top: float = 26, bottom: float = 42,
        x_ticks: Sequence[float] | None = None, log_x: bool = False,
    ) -> None:  # fmt: skip
        self.left, self.right, self.top, self.bottom = left, sheet.width - right, top, sheet.height - bottom
        lean, bend = _log if log_x else float, _log if log_y else float
        (x0, x1), (y0, y1) = map(lean, x_range), map(bend, y_range)
        self.x = lambda v: self.left + (self.right - self.left) * (lean(v) - x0) / (x1 - x0)
        self.y = lambda v: self.bottom - (self.bottom - self.top) * (min(max(bend(v), y0), y1) - y0) / (y1 - y0)
        for tick in (decades(*x_range) if log_x else ticks(x0, x1)) if x_ticks is None else x_ticks:
            at = self.x(tick)
            sheet.line(at, self.bottom, at, self.bottom + 4)
            sheet.text(at, self.bottom + 17, f"{tick:,.6g}", "middle")
        for tick in decades(*y_range) if log_y else ticks(y0, y1):
            at = self.y(tick)
            sheet.line(self.left - 4, at, self.left, at)
            sheet.text(self.left - 7, at + 4, f"{tick:,.6g}", "end")
        sheet.line(self.left, self.bottom, self.right, self.bottom)
        sheet.line(self.left, self.top, self.left, self.bottom)
        sheet.text((self.left + self.right) / 2, self.bottom + 36, x_title, "middle")
        sheet.text(4, 14, y_title)


def _log(value: float) -> float:
    return math.log10(max(float(value), 1e-300))


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers from low to high, at most `most` or so."""
    raw = (high - low) / most
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(s for s in (1, 2, 5, 10) if s * step >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """The powers of ten from low to high, and where there are few, twice and five times them too."""
    ends = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if ends[1] - ends[0] < 4 else (1,)
    found = [step * 10.0**k for k in range(ends[0], ends[1] + 1) for step in steps]
    return [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def spread_out(
    labels: Sequence[tuple[float, float, str]], taken: Sequence[Box], bounds: Box
) -> list[tuple[float, float] | None]:
    """Where labels of points (x, y, words) go so that none meets another: (left, baseline), or None for no room.

    The first labels choose first. taken: boxes that must stay free; bounds: the box inside which labels stay.
    """
    boxes = list(taken)
    found: list[tuple[float, float] | None] = []
    for x, y, words in labels:
        wide, here = WIDE * len(words), None
        for dx, dy, back in PLACES:
            left, base = x + dx - back * wide, y + dy
            box = (left, base - FONT, left + wide, base + 4)
            inside = box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]
            if inside and not any(_meet(box, other) for other in boxes):
                boxes.append(box)
                here = (left, base)
                break
        found.append(here)
    return found


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
