"""The rate-distortion plane: what codecs cost, bits a value, against how little they lose, signal to noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..measure.rate import DB_A_BIT
from .axes import Axes, spread_out
from .show import Shown, show
from .sketch import Sketch
from .style import BODY, HEAD, INK, TAIL, layout

Rows = Sequence[Mapping[str, Any]]
WIDTH, HEIGHT = 390, 270  # units
PAPER_CODEC = "int8"  # arXiv 2310.14651
PURPLE, VERMILLION, SKY = "#CC79A7", "#D55E00", "#56B4E9"


class Family(NamedTuple):
    """Codecs of one kind: how a legend calls them, their colour and their sign."""

    name: str
    colour: str
    sign: str


FORMATS = Family("formats", BODY, "square")
INTEGERS, NORMAL = Family("INT", HEAD, "circle"), Family("NF4", PURPLE, "diamond")
STEPS = Family("uniform", TAIL, "triangle-up")
PREDICTED, OTHERS = Family("predicted", VERMILLION, "triangle-down"), Family("others", SKY, "square")


def family_of(spec: str) -> Family:
    """The family that a codec is drawn with."""
    if "+delta" in spec:
        return PREDICTED
    starts = {"int": INTEGERS, "nf": NORMAL, "uniform": STEPS, "fp": FORMATS, "bf": FORMATS}
    return next((family for start, family in starts.items() if spec.startswith(start)), OTHERS)


def rate_distortion(rows: Rows, now: str = "") -> Shown:
    """Bits a value against SNR in dB: Shannon's line for Gaussian values (dashed), the paper's INT8, all other rows.

    rows: mappings with codec, bits and snr_db, as of `measure.rate_point`; those without an error have no place and
    are only named. now: the codec that is pointed out. Raises ValueError without a row.
    """
    import plotly.graph_objects as go

    words = plane_alt(rows)
    drawn, ((low, high), top) = _drawn(rows, now), _reach(rows)
    figure = go.Figure(
        go.Scatter(x=[0, high], y=[0, high / DB_A_BIT], mode="lines", name="Shannon, Gaussian",
                   line={"color": INK, "dash": "dash"}),
        layout=layout(HEIGHT + 80, width=WIDTH + 190, margin={"l": 60, "r": 20, "t": 20, "b": 60}),
    )  # fmt: skip
    for kind in dict.fromkeys(family_of(row["codec"]) for row in drawn):
        mine = [row for row in drawn if family_of(row["codec"]) == kind]
        paper = [row["codec"] == PAPER_CODEC for row in mine]
        figure.add_scatter(
            x=[round(row["snr_db"], 2) for row in mine], y=[round(row["bits"], 3) for row in mine], name=kind.name,
            text=[row["codec"] for row in mine], hovertemplate="%{text}: %{y} bits, %{x} dB<extra></extra>",
            mode="markers", marker={"color": kind.colour, "symbol": ["star" if p else kind.sign for p in paper],
                                    "size": [17 if p else 10 for p in paper],
                                    "line": {"color": INK, "width": [2 * (row["codec"] == now) for row in mine]}},
        )  # fmt: skip
    sheet, axes = _framed(rows)
    for row, place in zip(drawn, _labelled(drawn, sheet, axes), strict=True):
        if place:
            across, upward = place[0] - axes.x(row["snr_db"]), axes.y(row["bits"]) - place[1] + 4
            figure.add_annotation(x=row["snr_db"], y=row["bits"], text=_said(row), showarrow=False, xanchor="left",
                                  xshift=across, yshift=upward, font={"size": 11})  # fmt: skip
    figure.update_xaxes(title="signal to noise (dB)", range=[low, high], zeroline=False)
    figure.update_yaxes(title="bits a value", range=[0, top], zeroline=False)
    return show(figure, plane_sketch(rows, now).png(small=True), words)


def plane_sketch(rows: Rows, now: str = "") -> Sketch:
    """The plane as a sketch."""
    drawn = _drawn(rows, now)
    sheet, axes = _framed(rows)
    end = _end(rows)
    sheet.line(axes.x(0), axes.y(0), axes.x(end), axes.y(end / DB_A_BIT), dashed=True, width=1.5,
               said="Shannon's line: the least that independent Gaussian values need")  # fmt: skip
    for row in reversed(drawn):
        x, y, kind = axes.x(row["snr_db"]), axes.y(row["bits"]), family_of(row["codec"])
        paper = row["codec"] == PAPER_CODEC
        if row["codec"] == now:
            sheet.ring(x, y, 9)
        sheet.mark(x, y, "star" if paper else kind.sign, kind.colour, 5.5 if paper else 4.5,
                   f"{row['codec']}: {row['bits']:.2f} bits a value, {row['snr_db']:.1f} dB")  # fmt: skip
    for row, place in zip(drawn, _labelled(drawn, sheet, axes), strict=True):
        if place:
            sheet.text(*place, _said(row))
    x, y = 8.0, sheet.height - 6
    for kind in dict.fromkeys(family_of(row["codec"]) for row in drawn):
        sheet.mark(x + 5, y - 4, kind.sign, kind.colour)
        sheet.text(x + 14, y, kind.name)
        x += 23 + 6 * len(kind.name)
    sheet.line(x + 2, y - 4, x + 20, y - 4, dashed=True, width=1.5)
    sheet.text(x + 24, y, "Shannon")
    return sheet


def _drawn(rows: Rows, now: str) -> list[Mapping[str, Any]]:
    """The rows that have a place; those whose labels matter most come first."""
    found = [row for row in rows if math.isfinite(row["snr_db"])]
    return sorted(found, key=lambda row: (row["codec"] != now, row["codec"] != PAPER_CODEC))


def _framed(rows: Rows) -> tuple[Sketch, Axes]:
    reach, top = _reach(rows)
    sheet = Sketch(WIDTH, HEIGHT + 18)
    return sheet, Axes(sheet, reach, (0, top), "signal to noise (dB)", "bits a value", bottom=60)


def _end(rows: Rows) -> float:
    """Where Shannon's line leaves the plane, in dB."""
    (_, high), top = _reach(rows)
    return min(high, top * DB_A_BIT)


def _labelled(drawn: Rows, sheet: Sketch, axes: Axes) -> list[tuple[float, float] | None]:
    """Where the rows' labels go: neither on each other nor on a point nor on Shannon's line."""
    end = _end(drawn)
    at = [(axes.x(row["snr_db"]), axes.y(row["bits"])) for row in drawn]
    line = [(axes.x(end * k / 60), axes.y(end * k / 60 / DB_A_BIT)) for k in range(61)]
    taken = [(x - r, y - r, x + r, y + r) for points, r in ((at, 6), (line, 3)) for x, y in points]
    words = [(x, y, _said(row)) for (x, y), row in zip(at, drawn, strict=True)]
    return spread_out(words, taken, (axes.left + 2, axes.top, sheet.width, axes.bottom))


def plane_alt(rows: Rows) -> str:
    """One sentence that says what the plane shows."""
    if not rows:
        raise ValueError("The plane needs at least one row with codec, bits and snr_db.")
    found = sorted((row for row in rows if math.isfinite(row["snr_db"])), key=lambda row: row["snr_db"])
    exact = [row["codec"] for row in rows if row["snr_db"] == math.inf]
    below = [row["codec"] for row in found if row["bits"] < max(0.0, row["snr_db"]) / DB_A_BIT]
    paper = next((row for row in found if row["codec"] == PAPER_CODEC), None)
    parts = [f"Bits a value against signal to noise for {len(rows)} codec{'s' if len(rows) > 1 else ''}"]
    if found:
        ends = [f"{row['codec']} ({_place(row)})" for row in (found[0], found[-1])[: len(found)]]
        parts.append(f"from {ends[0]} to {ends[1]}" if len(ends) > 1 else ends[0])
    parts += [f"the paper's INT8 at {_place(paper)}"] if paper else []
    parts += [f"below Shannon's line for Gaussian values: {', '.join(below)}"] if below else []
    parts += [f"without an error: {', '.join(exact)}"] if exact else []
    return "; ".join(parts) + "."


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['bits']:.1f} bits, {row['snr_db']:.0f} dB"


def _said(row: Mapping[str, Any]) -> str:
    return "INT8, the paper's" if row["codec"] == PAPER_CODEC else str(row["codec"]).removeprefix("uniform:")


def _reach(rows: Rows) -> tuple[tuple[float, float], float]:
    """The ranges of SNR and bits that show every row."""
    places = [(row["snr_db"], row["bits"]) for row in rows if math.isfinite(row["snr_db"])]
    low = 10 * math.floor(min([0.0, *(snr for snr, _ in places)]) / 10)
    return (low, max([48.0, *(snr + 4 for snr, _ in places)])), max([9.0, *(bits + 1 for _, bits in places)])
