"""Where the time of a reply goes: a stacked bar for each deployment, and the points that were measured beside them.

Tables are those of `measure.budget`. A panel takes the `_sketch` and the `_alt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..measure.budget import SPENT
from ..measure.latency import Times
from .axes import ticks
from .show import Shown, show
from .sketch import Sketch
from .style import BODY, HEAD, INK, PAPER, TAIL, layout

if TYPE_CHECKING:
    import pandas as pd

WIDTH, ROW, THICK = 620, 54, 26  # units: the sheet, a bar with its surroundings, a bar
LEFT, RIGHT, TOP = 50, 96, 30
# Colour, hatch and colour of the hatch of every part: the hatch alone tells them apart.
LOOKS = {
    "local": (HEAD, "/", PAPER), "codec": ("#CC79A7", "x", INK), "up": ("#56B4E9", "|", INK),
    "host": (BODY, ".", INK), "down": (TAIL, "-", PAPER), "waiting": ("#ffffff", "", INK),
}  # fmt: skip
WORDS = {"local": "local computing", "codec": "codec", "up": "bytes up", "host": "host computing",
         "down": "bytes down", "waiting": "waiting for the line"}  # fmt: skip
Measured = Mapping[str, Times]


def seconds(value: float) -> str:
    """`0.42 ms`, `81 ms`, `3.4 s`, `12 min`: two digits or so."""
    if value < 0.0995:
        return f"{1000 * value:.2g} ms" if value < 0.00995 else f"{1000 * value:.0f} ms"
    if value < 600:
        return f"{value:.2f} s" if value < 0.995 else f"{value:.1f} s" if value < 99.5 else f"{value:.0f} s"
    return f"{value / 60:.0f} min"


def deployment_bars(table: pd.DataFrame, measured: Measured | None = None) -> Shown:
    """Stacked bars of the parts in seconds, a tick at the first token, and diamonds at what was measured."""
    import plotly.graph_objects as go

    names = [str(name) for name in table.index]
    figure = go.Figure(layout=layout(90 + 60 * len(names), width=WIDTH + 60, barmode="stack",
                                     margin={"l": 60, "r": 20, "t": 10, "b": 50}))  # fmt: skip
    for part in (part for part in SPENT if (table[part] > 0).any()):
        colour, hatch, over = LOOKS[part]
        figure.add_bar(
            y=names, x=[round(float(v), 4) for v in table[part]], orientation="h", name=WORDS[part],
            marker={"color": colour, "line": {"color": INK, "width": 1},
                    "pattern": {"shape": hatch, "fgcolor": over, "size": 7}},
            hovertemplate="%{y}, " + WORDS[part] + ": %{x} s<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(x=[round(float(v), 4) for v in table["first"]], y=names, mode="markers", name="first token",
                       marker={"symbol": "line-ns-open", "size": 34, "color": INK, "line": {"width": 3}})  # fmt: skip
    if measured:
        figure.add_scatter(x=[round(times.total, 4) for times in measured.values()], y=list(measured), mode="markers",
                           name="measured", marker={"symbol": "diamond", "size": 13, "color": PAPER,
                                                    "line": {"color": INK, "width": 2}})  # fmt: skip
    figure.update_xaxes(title="seconds", zeroline=False, rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return show(figure, bars_sketch(table, measured).png(small=True), bars_alt(table, measured))


def bars_sketch(table: pd.DataFrame, measured: Measured | None = None) -> Sketch:
    """The bars as a sketch."""
    measured = measured or {}
    longest = max([float(table["total"].max()), *(times.total for times in measured.values())])
    bottom = TOP + ROW * len(table)
    sheet = Sketch(WIDTH, bottom + 88)
    scale = (WIDTH - LEFT - RIGHT) / longest
    unit, name = (0.001, "milliseconds") if longest < 1 else (1.0, "seconds") if longest < 600 else (60.0, "minutes")
    for tick in ticks(0, longest / unit):
        x = LEFT + tick * unit * scale
        sheet.line(x, bottom, x, bottom + 4)
        sheet.text(x, bottom + 17, f"{tick:,.6g}", "middle")
    sheet.line(LEFT, bottom, WIDTH - RIGHT, bottom)
    sheet.line(LEFT, TOP - 8, LEFT, bottom)
    sheet.text((LEFT + WIDTH - RIGHT) / 2, bottom + 34, name, "middle")
    for k, (deployment, row) in enumerate(table.iterrows()):
        top, x = TOP + k * ROW, float(LEFT)
        sheet.text(LEFT - 8, top + THICK / 2 + 4, str(deployment), "end")
        for part in SPENT:
            wide = float(row[part]) * scale
            hatched(sheet, x, top, x + wide, top + THICK, part, f"{deployment}, {WORDS[part]}: {seconds(row[part])}")
            x += wide
        first = LEFT + float(row["first"]) * scale
        _stroke(sheet, first, top - 6, top + THICK + 6, f"first token: {seconds(row['first'])}")
        sheet.text(x + 8, top + THICK / 2 + 4, seconds(row["total"]))
        if str(deployment) in measured:
            total = measured[str(deployment)].total
            diamond(sheet, LEFT + total * scale, top + THICK + 11, f"measured: {seconds(total)}")
            late = LEFT + total * scale > WIDTH - 120
            sheet.text(LEFT + total * scale + (-10 if late else 10), top + THICK + 15, f"measured {seconds(total)}",
                       "end" if late else "start")  # fmt: skip
    _legend(sheet, bottom + 42, bool(measured))
    return sheet


def _legend(sheet: Sketch, top: float, measured: bool) -> None:
    x, y = 8.0, top
    for part in SPENT:
        if x + 26 + 6.4 * len(WORDS[part]) > WIDTH:
            x, y = 8.0, y + 20
        hatched(sheet, x, y, x + 18, y + 13, part, WORDS[part])
        sheet.text(x + 23, y + 11, WORDS[part])
        x += 40 + 6.4 * len(WORDS[part])
    for name in ("first token", *(["measured"] if measured else [])):
        if x + 26 + 6.4 * len(name) > WIDTH:
            x, y = 8.0, y + 20
        if name == "measured":
            diamond(sheet, x + 8, y + 6, name)
        else:
            _stroke(sheet, x + 8, y - 2, y + 15, name)
        sheet.text(x + 19, y + 11, name)
        x += 36 + 6.4 * len(name)


def _stroke(sheet: Sketch, x: float, top: float, bottom: float, said: str) -> None:
    """The sign of the first token: dark in white, seen on every colour and on every page."""
    sheet.line(x, top, x, bottom, PAPER, width=6, said=said)
    sheet.line(x, top, x, bottom, "#000000", width=2.5)


def diamond(sheet: Sketch, x: float, y: float, said: str) -> None:
    """The sign of what was measured: white with a dark edge, seen on every colour."""
    sheet.mark(x, y, "diamond", INK, 6.5, said)
    sheet.mark(x, y, "diamond", PAPER, 4.0)


def hatched(sheet: Sketch, left: float, top: float, right: float, bottom: float, part: str, said: str) -> None:
    """A box in a part's colour and hatch; none where it would be narrower than a hair."""
    if right - left < 0.3:
        return
    colour, hatch, over = LOOKS[part]
    sheet.box(left, top, right, bottom, colour, said)
    tall = bottom - top
    if hatch == ".":
        for y in (top + 4 + 6 * k for k in range(int((tall - 4) / 6) + 1)):
            for x in (left + 4 + 7 * k for k in range(int((right - left - 5) / 7) + 1) if right - left > 8):
                sheet.box(x - 1, y - 1, x + 1, y + 1, over)
    if hatch == "-":
        for y in (top + 4 + 6 * k for k in range(int((tall - 4) / 6) + 1)):
            sheet.line(left, y, right, y, over)
    if hatch == "|":
        for x in (left + 3 + 6 * k for k in range(int((right - left - 3) / 6) + 1) if right - left > 3):
            sheet.line(x, top, x, bottom, over)
    for lean in {"/": (1,), "x": (1, -1)}.get(hatch, ()):
        for start in (left - tall + 8 * k for k in range(int((right - left + tall) / 8) + 1)):
            _slanted(sheet, start, (left, top, right, bottom), lean, over)
    for x, x2, y, y2 in ((left, right, top, top), (left, right, bottom, bottom), (left, left, top, bottom),
                         (right, right, top, bottom)):  # fmt: skip
        sheet.line(x, y, x2, y2, INK, width=0.7)


def _slanted(sheet: Sketch, start: float, box: tuple[float, float, float, float], lean: int, colour: str) -> None:
    """The part inside a box of a line that rises (lean 1) or falls from (start, its lower or upper edge)."""
    left, top, right, bottom = box
    low, high = max(start, left), min(start + bottom - top, right)
    if high - low > 0.5:
        ends = [bottom - (x - start) if lean == 1 else top + (x - start) for x in (low, high)]
        sheet.line(low, ends[0], high, ends[1], colour)


def bars_alt(table: pd.DataFrame, measured: Measured | None = None) -> str:
    """One sentence that says what the bars show."""
    totals = ", ".join(f"{name} {seconds(row['total'])}" for name, row in table.iterrows())
    parts = [f"The whole reply takes {totals}"]
    if "split" in table.index:
        row = table.loc["split"]
        largest = max(SPENT, key=lambda part: float(row[part]))
        parts.append(f"the split's largest part is {WORDS[largest]}, {float(row[largest] / row['total']):.0%}")
    if measured:
        parts.append("measured: " + ", ".join(f"{name} {seconds(times.total)}" for name, times in measured.items()))
    return "; ".join(parts) + "."
