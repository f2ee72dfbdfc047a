"""The heat map of exactness: for every plan (head, tail), how much of the whole model's answer the split one gave."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .style import BODY, HEAD, INK, layout

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def exactness_figure(table: pd.DataFrame, what: str = "share of equal tokens") -> go.Figure:
    """Heat map, orange (0) through white to blue (1), of a table
    (index: head, columns: tail, values 0 to 1, NaN where there is no plan).
    """
    import plotly.graph_objects as go

    values = [[None if math.isnan(v) else float(v) for v in row] for row in table.to_numpy(dtype=float)]
    words = [["" if v is None else f"{v:.3g}" for v in row] for row in values]
    height, width = 80 + 26 * max(len(table.index), 3), 210 + 44 * len(table.columns)
    figure = go.Figure(
        go.Heatmap(
            x=[str(c) for c in table.columns], y=[str(i) for i in table.index], z=values, text=words,
            texttemplate="%{text}", zmin=0, zmax=1, colorscale=[[0, BODY], [0.5, "#f7f7f7"], [1, HEAD]],
            xgap=2, ygap=2, hoverongaps=False, colorbar={"title": {"text": what, "side": "right"}, "outlinewidth": 0},
            hovertemplate="head %{y}, tail %{x}: %{z:.4g}<extra></extra>",
        ),
        layout=layout(height, width=width, margin={"l": 70, "r": 10, "t": 10, "b": 60}),
    )  # fmt: skip
    figure.update_xaxes(title="tail (layers)", type="category", showgrid=False)
    figure.update_yaxes(title="head (layers)", type="category", showgrid=False)
    return figure


def exactness_png(table: pd.DataFrame, what: str = "share of equal tokens") -> bytes:
    """The same heat map as PNG bytes."""
    from .paint import box, canvas, png, text

    rows, columns = table.shape
    cell, left, bottom = (44, 26), 80, 56
    image, pen = canvas(left + columns * cell[0] + 20, 30 + rows * cell[1] + bottom)
    text(pen, left, 14, what, INK, anchor="lm")
    for i, head in enumerate(table.index):
        top = 30 + (rows - 1 - i) * cell[1]  # as in the figure, the first row is the lowest
        text(pen, left - 12, top + cell[1] / 2, str(head), INK, anchor="rm")
        for j in range(columns):
            value = float(table.iloc[i, j])
            if math.isnan(value):
                continue
            x = left + j * cell[0]
            box(image, x + 1, top + 1, x + cell[0] - 1, top + cell[1] - 1, _shade(value))
            dark = "white" if value > 0.75 else "black"
            text(pen, x + cell[0] / 2, top + cell[1] / 2, f"{value:.3g}", dark)
    for j, tail in enumerate(table.columns):
        text(pen, left + (j + 0.5) * cell[0], 30 + rows * cell[1] + 14, str(tail), INK)
    text(pen, left + columns * cell[0] / 2, 30 + rows * cell[1] + 38, "tail (layers)", INK)
    text(pen, 28, 30 + rows * cell[1] / 2, "head\n(layers)", INK)
    return png(image, small=True)  # beside a plotly figure, Lab shows it pixel by pixel


def _shade(value: float) -> str:
    value = min(max(value, 0.0), 1.0)
    ends = ("#f7f7f7", HEAD) if value >= 0.5 else (BODY, "#f7f7f7")
    part = (value - 0.5) * 2 if value >= 0.5 else value * 2
    low, high = (tuple(int(c[k : k + 2], 16) for k in (1, 3, 5)) for c in ends)
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(low, high, strict=True))


def exactness_alt(table: pd.DataFrame, what: str = "share of equal tokens") -> str:
    """One sentence that says what the heat map shows."""
    values = [v for v in table.to_numpy(dtype=float).ravel().tolist() if not math.isnan(v)]
    if not values:
        return f"Heat map of the {what} by head and tail, without a single plan."
    exact = sum(v == 1 for v in values)
    return (
        f"Heat map of the {what} for {len(values)} plans by head and tail: from {min(values):.3g} to "
        f"{max(values):.3g}, exactly 1 in {exact} of them."
    )
