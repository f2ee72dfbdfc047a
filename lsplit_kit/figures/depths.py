"""What each attack reads, by how many layers stand before the cut: a line, a mark and a dash for every attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .axes import Axes
from .numbers import percent
from .show import Shown, show
from .sketch import Shape, Sketch
from .style import layout

Row = Mapping[str, Any]  # attack, depth, codec, accuracy, top10, exact, reply, bits, low, high, h0, ...
WIDTH, HEIGHT, RIGHT, STEP = 520, 290, 140, 16  # units
VALUES = {
    "accuracy": "tokens right", "top10": "among the ten best", "exact": "whole prompts right",
    "reply": "tokens of replies right", "bits": "bits per token",
}  # fmt: skip
# attack: colour, mark of a sketch, symbol and dash of plotly
LOOKS = {
    "PriorOnly": ("#767676", "circle", "circle", "dot"),
    "NearestEmbedding": ("#CC79A7", "square", "square", "dash"),
    "Ridge": ("#E69F00", "triangle-up", "triangle-up", "dashdot"),
    "PrototypeLDA": ("#009E73", "diamond", "diamond", "longdash"),
    "VocabMatch": ("#0072B2", "star", "star", "solid"),
}
OTHER = ("#333333", "triangle-down", "triangle-down", "longdashdot")


def curves(rows: Sequence[Row], codec: str) -> dict[str, list[Row]]:
    """The rows of a codec by attack, each in order of depth; raises ValueError when there is none."""
    found: dict[str, list[Row]] = {}
    for row in sorted((r for r in rows if r["codec"] == codec), key=lambda r: r["depth"]):
        found.setdefault(str(row["attack"]), []).append(row)
    if not found:
        there = ", ".join(sorted({str(r["codec"]) for r in rows})) or "none at all"
        raise ValueError(f"There are no rows of codec {codec!r}; there are those of {there}.")
    order = list(LOOKS)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _checked(value: str) -> str:
    if value not in VALUES:
        raise ValueError(f"value={value!r}: choose one of {', '.join(VALUES)}.")
    return value


def _top(found: Mapping[str, list[Row]], value: str) -> float:
    return 1.0 if value != "bits" else 1.05 * max(max(r["high"], r["h0"]) for line in found.values() for r in line)


def depth_curves(rows: Sequence[Row], codec: str = "fp32", value: str = "accuracy") -> Shown:
    """The curves of one codec as a figure of plotly, with PNG and sentence; value: a key of VALUES. Raises ValueError.

    rows: as `benchmarks/attacks.py` writes them. Bits come with their 95 % interval.
    """
    import plotly.graph_objects as go

    found = curves(rows, codec)
    figure = go.Figure(layout=layout(HEIGHT + 110, width=WIDTH + 180, margin={"l": 60, "r": 20, "t": 20, "b": 60}))
    for attack, line in found.items():
        colour, _, symbol, dash = LOOKS.get(attack, OTHER)
        height = [r[_checked(value)] for r in line]
        error = None
        if value == "bits":
            error = {"array": [r["high"] - r["bits"] for r in line], "arrayminus": [r["bits"] - r["low"] for r in line]}
        figure.add_scatter(
            x=[r["depth"] for r in line], y=height, name=attack, mode="lines+markers", error_y=error,
            line={"color": colour, "dash": dash, "width": 2}, marker={"symbol": symbol, "size": 10, "color": colour},
            hovertemplate=f"{attack}, %{{x}} layers: %{{y:{'.2f' if value == 'bits' else '.1%'}}}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="layers before the cut")
    form = {} if value == "bits" else {"tickformat": ".0%"}
    figure.update_yaxes(title=VALUES[value], range=[0, 1.02 * _top(found, value)], zeroline=False, **form)
    return show(figure, depths_sketch(rows, codec, value).png(small=True), depths_alt(rows, codec, value))


def depths_sketch(rows: Sequence[Row], codec: str = "fp32", value: str = "accuracy") -> Sketch:
    """The curves as a sketch: the mark tells the attack, its name stands beside the last one, only the exact attack is
    not dashed."""
    found, sheet = curves(rows, codec), Sketch(WIDTH, HEIGHT)
    depths = sorted({r["depth"] for line in found.values() for r in line})
    ends = (min(0, *depths), max(depths)) if max(depths) > 0 else (0, 1)
    axes = Axes(sheet, ends, (0, _top(found, _checked(value))), "layers before the cut", VALUES[value], right=RIGHT,
                x_ticks=depths)  # fmt: skip
    ends_at = []
    for attack, line in found.items():
        colour, mark, _, dash = LOOKS.get(attack, OTHER)
        points = [(axes.x(r["depth"]), axes.y(r[value])) for r in line]
        if len(points) > 1:
            sheet.shapes.append(Shape("line", points, colour, said=attack, dashed=dash != "solid", width=2))
        for (x, y), row in zip(points, line, strict=True):
            if value == "bits":
                sheet.line(x, axes.y(row["low"]), x, axes.y(row["high"]), colour, width=1.5)
            sheet.mark(x, y, mark, colour, 5, f"{attack}, {row['depth']} layers: {_said(row, value)}")
        ends_at.append((points[-1][1], attack))
    base = axes.bottom + 4 + STEP
    for y, attack in sorted(ends_at, reverse=True):  # from the lowest up, each clear of the one below
        base = min(y + 4, base - STEP)
        colour, mark, *_ = LOOKS.get(attack, OTHER)
        sheet.mark(axes.right + 16, base - 4, mark, colour, 4)
        sheet.text(axes.right + 25, base, attack)
    return sheet


def _said(row: Row, value: str) -> str:
    if value == "bits":
        bits, low, high = (round(row[name], 2) + 0.0 for name in ("bits", "low", "high"))  # no "-0.00"
        return f"{bits:.2f} bits ({low:.2f} to {high:.2f})"
    return percent(row[value])


def depths_alt(rows: Sequence[Row], codec: str = "fp32", value: str = "accuracy") -> str:
    """One sentence with every attack at its first and its last depth."""
    parts = []
    for attack, line in curves(rows, codec).items():
        first, last = line[0], line[-1]
        far = "" if first is last else f", {_said(last, value)} behind {last['depth']}"
        parts.append(f"{attack} {_said(first, _checked(value))} behind {first['depth']}{far}")
    return f"{VALUES[value].capitalize()} by layers before the cut, codec {codec}: {'; '.join(parts)}."
