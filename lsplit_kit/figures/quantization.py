"""What a codec does to values: the rate-distortion plane, a histogram with the codec's levels, and outlier channels.

Each figure is a `Shown`: a plotly figure, its PNG and its sentence. A panel takes the `_sketch` and the `_alt`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..measure.outliers import OUTLIER, channel_peaks
from ..measure.rate import levels_of
from .axes import Axes, spread_out
from .plane import HEIGHT, VERMILLION, WIDTH, plane_alt, plane_sketch, rate_distortion
from .show import Shown, show
from .sketch import Sketch
from .style import BODY, HEAD, INK, layout

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["channels", "channels_alt", "channels_sketch", "levels", "levels_alt", "levels_sketch", "plane_alt",
           "plane_sketch", "rate_distortion"]  # fmt: skip
BINS, STEMS, NAMED = 61, 384, 6  # bars of a histogram, most bars of channels, and outliers that get a name
FEW = 64  # levels that can be told apart, each with a tick of its own


def levels(values: Tensor, spec: str, log: bool = False) -> Shown:
    """Histogram of a tensor's values, and below it a tick for each level that the codec gives them.

    log: the counts on a logarithmic scale, on which single far values can be seen. Raises CodecError and ValueError.
    """
    import plotly.graph_objects as go

    counts, edges = _counted(values)
    found = levels_of(spec, values)
    figure = go.Figure(
        go.Bar(x=[round(float(m), 4) for m in (edges[1:] + edges[:-1]) / 2], y=counts.tolist(), name="values",
               marker={"color": HEAD}, width=float(edges[1] - edges[0])),
        layout=layout(HEIGHT + 60, width=WIDTH + 110, margin={"l": 60, "r": 20, "t": 20, "b": 60}, bargap=0),
    )  # fmt: skip
    figure.add_scatter(
        x=[round(float(v), 4) for v in found], y=[0.5 if log else 0] * len(found), mode="markers", name=_many(found),
        marker={"symbol": "line-ns-open", "size": 16, "color": VERMILLION}, hovertemplate="level %{x}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="value", zeroline=False)
    figure.update_yaxes(title="how many", type="log" if log else "linear", zeroline=False)
    return show(figure, levels_sketch(values, spec, log).png(small=True), levels_alt(values, spec))


def levels_sketch(values: Tensor, spec: str, log: bool = False) -> Sketch:
    """The histogram as a sketch; raises CodecError and ValueError."""
    counts, edges = _counted(values)
    found = levels_of(spec, values)
    sheet = Sketch(WIDTH, HEIGHT)
    low, high = min(float(edges[0]), float(found[0])), max(float(edges[-1]), float(found[-1]))
    edge = 0.02 * (high - low)
    axes = Axes(sheet, (low - edge, high + edge), (0.5 if log else 0.0, float(counts.max()) * 1.05),
                f"value, and {_many(found)} that {spec} uses", "how many values", log_y=log)  # fmt: skip
    for count, left, right in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        if count:
            said = f"{count:,} values from {left:.3g} to {right:.3g}"
            sheet.box(axes.x(left), axes.y(count), max(axes.x(right), axes.x(left) + 0.6), axes.bottom, HEAD, said)
    seen = {round(axes.x(level)): level for level in found.tolist()}  # those of one pixel share a tick
    for at, level in seen.items():
        where = axes.x(level) if len(seen) <= FEW else at
        sheet.line(where, axes.bottom - 7, where, axes.bottom + 7, VERMILLION, width=2.0 if len(seen) <= FEW else 1.0,
                   said=f"level {level:.4g}" if len(seen) <= FEW else "")  # fmt: skip
    return sheet


def levels_alt(values: Tensor, spec: str) -> str:
    """One sentence that says what the histogram shows."""
    found = levels_of(spec, values)
    low, high = float(values.min()), float(values.max())
    return f"Histogram of {values.numel():,} values from {low:.3g} to {high:.3g}, with {_many(found)} that {spec} uses."


def _many(found: np.ndarray) -> str:
    return f"the {len(found):,} level{'s' if len(found) > 1 else ''}"


def _counted(values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if not values.numel():
        raise ValueError("A histogram needs at least one value.")
    flat = values.detach().cpu().double().numpy().ravel()
    low, high = float(flat.min()), float(flat.max())
    if high - low <= 1e-9 * abs(high):  # one value: a bar in the middle
        low, high = low - (abs(low) or 1.0) / 100, high + (abs(high) or 1.0) / 100
    return np.histogram(flat, bins=BINS, range=(low, high))


def channels(hidden: Tensor) -> Shown:
    """The largest magnitude in each channel of a tensor [..., d], on a logarithmic scale; outliers marked and named.

    An outlier's peak is more than OUTLIER times the median channel's. Raises UnsupportedOption.
    """
    import plotly.graph_objects as go

    table = channel_peaks(hidden)
    figure = go.Figure(layout=layout(HEIGHT + 60, width=WIDTH + 190, bargap=0, barmode="overlay",
                                     margin={"l": 60, "r": 20, "t": 20, "b": 60}))  # fmt: skip
    every = [float(f"{peak:.3g}") for peak in table["peak"]]
    few = table[table["outlier"]]
    figure.add_bar(x0=0, dx=1, y=every, name="channels", width=1.0, marker={"color": HEAD, "line": {"width": 0}},
                   hovertemplate="channel %{x}: %{y}<extra></extra>")  # fmt: skip
    figure.add_bar(
        x=few.index.tolist(), y=[every[channel] for channel in few.index], name="outliers", width=1.0,
        marker={"color": VERMILLION, "line": {"color": VERMILLION, "width": 1}}, customdata=few["token"].tolist(),
        hovertemplate="channel %{x}: %{y} at token %{customdata}<extra></extra>",
    )  # fmt: skip
    for channel, row in _named(table):
        figure.add_annotation(x=channel, y=float(np.log10(row["peak"])), text=_label(channel, row), showarrow=False,
                              yshift=9)  # fmt: skip
    figure.add_hline(y=float(table["peak"].median()), line={"color": INK, "dash": "dash"})
    figure.update_xaxes(title="channel", zeroline=False)
    figure.update_yaxes(title="largest magnitude", type="log", zeroline=False)
    return show(figure, channels_sketch(hidden).png(small=True), channels_alt(hidden))


def channels_sketch(hidden: Tensor) -> Sketch:
    """The chart of channels as a sketch; neighbours share a bar where there are more than STEMS."""
    table = channel_peaks(hidden)
    peaks, middle = table["peak"].to_numpy(), float(table["peak"].median()) or 1.0
    sheet = Sketch(WIDTH, HEIGHT)
    low = max(float(np.quantile(peaks, 0.05)) / 2, middle / 100)
    axes = Axes(sheet, (0, len(peaks)), (low, max(float(peaks.max()), middle) * 2), "channel",
                "largest magnitude, log scale (dashed: median channel)", log_y=True)  # fmt: skip
    together = -(-len(peaks) // STEMS)
    wide = (axes.right - axes.left) / len(peaks) * together
    for start in range(0, len(peaks), together):
        channel = start + int(peaks[start : start + together].argmax())
        left, said = axes.x(start), f"channel {channel}: {peaks[channel]:.3g}"
        sheet.box(left, axes.y(peaks[channel]), left + 0.8 * wide, axes.bottom, HEAD, said)
    sheet.line(axes.left, axes.y(middle), axes.right, axes.y(middle), BODY, dashed=True, width=2.0,
               said=f"the median channel: {middle:.3g}")  # fmt: skip
    stems = [(axes.x(channel + 0.5), axes.y(peaks[channel])) for channel in table.index[table["outlier"]]]
    for x, y in stems:
        sheet.line(x, y, x, axes.bottom, VERMILLION, width=2.0)
        sheet.mark(x, y, "diamond", VERMILLION, 3.5)
    labels = [(axes.x(c + 0.5), axes.y(row["peak"]), _label(c, row)) for c, row in _named(table)]
    clear = [(x - 3, y - 4, x + 3, axes.bottom) for x, y in stems]  # above the other channels, beside the stems
    bounds = (axes.left, axes.top - 8, sheet.width - 2, axes.y(OUTLIER * middle))
    for (_, _, words), place in zip(labels, spread_out(labels, clear, bounds), strict=True):
        if place:
            sheet.text(*place, words)
    return sheet


def channels_alt(hidden: Tensor) -> str:
    """One sentence that says what the chart of channels shows."""
    table = channel_peaks(hidden)
    count, middle = int(table["outlier"].sum()), float(table["peak"].median())
    named = ", ".join(_label(channel, row) for channel, row in _named(table))
    many = f"{count} outliers, the largest" if count > NAMED else f"{count} outlier{'s' if count > 1 else ''},"
    said = f"{many} {named}" if count else "no outlier"
    return f"Largest magnitude of each of {len(table):,} channels, {middle:.2g} in the median one: {said}."


def _named(table: pd.DataFrame) -> list[tuple[int, pd.Series]]:
    """The largest outliers, the largest first."""
    rows = table[table["outlier"]].sort_values("peak", ascending=False).head(NAMED)
    return [(int(channel), row) for channel, row in rows.iterrows()]


def _label(channel: int, row: pd.Series) -> str:
    return f"{channel}: {row['peak']:,.0f} at token {int(row['token'])}"
