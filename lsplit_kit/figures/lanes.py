"""Crossings on two lanes, up and down, and a row for control frames: as SVG, as a sketch for PNG, and in words.

A bar is as tall as its bytes are many: those of its frame, or where nothing is framed those of its payload. Up grows
upwards and is blue, down grows downwards and is orange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from .axes import ticks
from .sketch import FONT, Sketch
from .stack import counted
from .style import BODY, HEAD, TAIL

if TYPE_CHECKING:
    from ..wire.tap import Crossing

STEPS, CLOCK = "step", "clock"
MOST = 96  # exchanges that are drawn; the others are named
WIDTH, HEIGHT, LEFT, RIGHT = 760, 300, 64, 16  # units
UP, DOWN, TALL = 118, 134, 88  # feet of both lanes' bars, and the longest bar
CONTROL, TICKS = 248, 272  # the middle of the row of control frames, and the baseline of the numbers below
COLOURS = {"up": HEAD, "down": BODY}
CARRIES = ("step", "replay")  # kinds of crossings that are no control frames


@dataclass(frozen=True)
class Lanes:
    """What the lanes show: crossings, their times if known, which one is chosen (-1: none), and what x is."""

    crossings: Sequence[Crossing] = ()
    clock: Sequence[float] = ()
    chosen: int = -1
    across: str = STEPS

    @property
    def timed(self) -> bool:
        """Whether x is the link's clock."""
        return self.across == CLOCK and len(self.clock) >= len(self.crossings) > 0


class Bar(NamedTuple):
    """One crossing as a rectangle, in units."""

    crossing: int
    left: float
    top: float
    right: float
    bottom: float
    colour: str


def is_control(c: Crossing) -> bool:
    """Whether this is a frame that carries no step."""
    return c.kind not in CARRIES


def weight(c: Crossing) -> int:
    """The bytes that a bar stands for."""
    return c.frame or c.payload


def exchanges(crossings: Sequence[Crossing]) -> list[range]:
    """The crossings of each exchange: what went up, and what came down for it."""
    ways = ["", *(c.direction for c in crossings)]
    begins = [i for i, (a, b) in enumerate(pairwise(ways)) if not i or (a, b) == ("down", "up")]
    return [range(a, b) for a, b in pairwise([*begins, len(crossings)])]


def window(lanes: Lanes) -> tuple[list[range], int]:
    """(the exchanges that are drawn, the number of the first of them): the last ones, or those around the chosen."""
    found = exchanges(lanes.crossings)
    last = len(found)
    if lanes.chosen >= 0 and found and lanes.chosen < found[max(last - MOST, 0)].start:
        place = next(k for k, one in enumerate(found) if lanes.chosen in one)
        last = min(max(place + MOST // 2, MOST), last)
    first = max(last - MOST, 0)
    return found[first:last], first


def bars(lanes: Lanes) -> list[Bar]:
    """A rectangle for each crossing that is drawn; a frame's tensors stand on each other."""
    shown, _ = window(lanes)
    drawn = [i for one in shown for i in one]
    sums: dict[tuple[int, str], int] = {}
    for k, one in enumerate(shown):
        for i in one:
            way = (k, lanes.crossings[i].direction)
            sums[way] = sums.get(way, 0) + weight(lanes.crossings[i]) * (not is_control(lanes.crossings[i]))
    top = max(sums.values(), default=0) or 1
    pitch = min(48.0, (WIDTH - LEFT - RIGHT) / max(len(shown), 1))
    place = _scale(lanes, drawn)
    found = []
    for k, one in enumerate(shown):
        foot = {"up": float(UP), "down": float(DOWN)}
        for i in one:
            c = lanes.crossings[i]
            if place:
                left, right = place(lanes.clock[i]) - 2, place(lanes.clock[i]) + 2
            else:
                left, right = LEFT + (k + 0.15) * pitch, LEFT + (k + 0.85) * pitch
            if is_control(c):
                ends = (CONTROL - 8, CONTROL - 1) if c.direction == "up" else (CONTROL + 1, CONTROL + 8)
                found.append(Bar(i, left, *(ends[0], max(right, left + 3), ends[1]), TAIL))
                continue
            tall = max(TALL * weight(c) / top, 1.5)
            end = foot[c.direction] + (-tall if c.direction == "up" else tall)
            low, high = sorted((foot[c.direction], end))
            foot[c.direction] = end
            found.append(Bar(i, left, low, max(right, left + 1), high, COLOURS[c.direction]))
    return found


def _scale(lanes: Lanes, drawn: Sequence[int]) -> Callable[[float], float] | None:
    """Where a moment of the link's clock stands; None where x is no clock."""
    if not lanes.timed or not drawn:
        return None
    low, high = _span(lanes, drawn)
    return lambda t: LEFT + 4 + (WIDTH - LEFT - RIGHT - 8) * (t - low) / ((high - low) or 1.0)


def _span(lanes: Lanes, drawn: Sequence[int]) -> tuple[float, float]:
    times = [lanes.clock[i] for i in drawn]
    return min(times), max(times)


def _numbers(lanes: Lanes) -> tuple[list[tuple[float, str]], str]:
    """The numbers below the lanes as (place, words), and what they are."""
    shown, _ = window(lanes)
    place = _scale(lanes, [i for one in shown for i in one])
    if place:
        low, high = _span(lanes, [i for one in shown for i in one])
        return [(place(t), f"{t:.6g}") for t in ticks(low, high)] if high > low else [], "link's clock, s"
    pitch = min(48.0, (WIDTH - LEFT - RIGHT) / max(len(shown), 1))
    every = max(1, -(-len(shown) // 16))
    steps = [(k, lanes.crossings[one.start].step) for k, one in enumerate(shown)]
    marked = [(k, step) for k, step in steps if step and (step % every == 0 or step == 1)]
    return [(LEFT + (k + 0.5) * pitch, str(step)) for k, step in marked], "step"


def crossing_words(c: Crossing) -> str:
    """One crossing in words: its way, name, shape, codec and three byte counts."""
    if is_control(c) or not c.codec:
        return f"{c.direction}, control frame {c.kind}: tensor 0 B, payload 0 B, frame {c.frame:,} B"
    shape = " x ".join(map(str, c.shape)) or "one number"
    again = ", replayed" if c.kind == "replay" else ""
    return (
        f"{c.direction}, step {c.step}{again}: {c.name}, {shape}, {c.codec}; tensor {c.tensor:,} B, "
        f"payload {c.payload:,} B, frame {c.frame:,} B"
    )


def lanes_alt(lanes: Lanes) -> str:
    """One sentence that says what the lanes show."""
    if not lanes.crossings:
        return "No crossing yet."
    steps = [c for c in lanes.crossings if not is_control(c)]
    ways = []
    for way in ("up", "down"):
        mine = [c for c in steps if c.direction == way]
        said = f"{sum(c.payload for c in mine):,} payload bytes {way}"
        if mine:
            said += f", the largest at step {max(mine, key=weight).step}"
        ways.append(said)
    control = [c for c in lanes.crossings if is_control(c)]
    names = ", ".join(dict.fromkeys(c.kind for c in control))
    more = f"; {counted(len(control), 'control frame')} ({names})" if control else "; no control frame"
    shown, _ = window(lanes)
    every = exchanges(lanes.crossings)
    part = f" Of these, {len(shown)} are drawn." if len(shown) < len(every) else ""
    many = f"{counted(len(lanes.crossings), 'crossing')} in {counted(len(every), 'exchange')}"
    return f"{many}: {'; '.join(ways)}{more}.{part}"


def lanes_svg(lanes: Lanes) -> str:
    """The lanes as inline SVG in the page's own text colour; a bar's number is in `data-crossing`."""
    sheet = _frame(lanes)
    drawn = []
    for bar in bars(lanes):
        c = lanes.crossings[bar.crossing]
        kind = "control" if is_control(c) else c.direction
        drawn.append(
            f"<rect class='wire-{kind}' data-crossing='{bar.crossing}' x='{bar.left:.1f}' y='{bar.top:.1f}' "
            f"width='{bar.right - bar.left:.1f}' height='{bar.bottom - bar.top:.1f}' fill='{bar.colour}' "
            f"style='cursor:pointer'><title>{escape(crossing_words(c))}</title></rect>"
        )
    return sheet.svg(lanes_alt(lanes), "wire-lanes").replace("</svg>", "".join(drawn) + "</svg>")


def lanes_sketch(lanes: Lanes) -> Sketch:
    """The lanes as a sketch, for PNG."""
    sheet = _frame(lanes)
    for bar in bars(lanes):
        sheet.box(bar.left, bar.top, bar.right, bar.bottom, bar.colour)
    return sheet


def _frame(lanes: Lanes) -> Sketch:
    """What stands around the bars, the mark of the chosen one included."""
    sheet = Sketch(WIDTH, HEIGHT)
    for foot in (UP, DOWN, CONTROL):
        sheet.line(LEFT, foot, WIDTH - RIGHT, foot)
    for words, line in (("up", UP - 4), ("down", DOWN + FONT), ("control", CONTROL + 4)):
        sheet.text(4, line, words)
    numbers, name = _numbers(lanes)
    for x, words in numbers:
        sheet.text(x, TICKS, words, "middle")
    sheet.text(4, TICKS, name if name == STEPS else "s")
    shown, first = window(lanes)
    every = len(exchanges(lanes.crossings))
    below = "bars: frame bytes" if any(c.frame for c in lanes.crossings) else "bars: payload bytes, nothing is framed"
    if name != STEPS:
        below += f"; x: {name}"
    if len(shown) < every:
        below += f"; exchanges {first + 1} to {first + len(shown)} of {every}"
    sheet.text(WIDTH - RIGHT, HEIGHT - 6, below, "end")
    drawn = bars(lanes)
    for way, line in (("up", 14), ("down", DOWN + TALL + 14)):
        mine = [b for b in drawn if lanes.crossings[b.crossing].direction == way and b.colour != TAIL]
        if mine:
            most = max(mine, key=lambda bar: weight(lanes.crossings[bar.crossing]))
            c = lanes.crossings[most.crossing]
            sheet.text(LEFT, line, f"largest {way}: {weight(c):,} B at step {c.step}")
    for bar in drawn:
        if bar.crossing == lanes.chosen:
            middle, way = (bar.left + bar.right) / 2, lanes.crossings[bar.crossing].direction
            y, sign = (bar.top - 7, "triangle-down") if way == "up" else (bar.bottom + 7, "triangle-up")
            sheet.mark(middle, y, sign, "", 5, "the chosen crossing")
    return sheet
