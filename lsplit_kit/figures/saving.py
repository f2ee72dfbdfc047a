"""What a cache saves, by prompt and reply length: a map with the line from which on 99 % is true."""

from __future__ import annotations

from functools import lru_cache

from ..measure.traffic import reaches, reduction
from .axes import Axes
from .numbers import percent
from .show import Shown, show
from .sketch import Shape, Sketch
from .style import INK, PAPER, layout

WIDTH, HEIGHT, LARGEST = 390, 290, 1024  # units, and tokens at the end of both axes
# Shares that get a line, and the shade above it; the lowest shade is that below the first line.
SHADES = {0.0: "#f1f6fa", 0.5: "#d3e5f1", 0.75: "#a6cbe3", 0.9: "#79b0d4", 0.95: "#4394c4", 0.99: "#0072B2"}
MARK, LINE = 0.99, "#D55E00"
PROMPTS = sorted({round(2 ** (k / 3)) for k in range(31)})


@lru_cache(maxsize=16)
def border(share: float) -> tuple[tuple[int, int], ...]:
    """(prompt tokens, the fewest new tokens with which a cache saves `share`), for prompts up to LARGEST."""
    return tuple((prompt, reaches(prompt, share) or LARGEST) for prompt in PROMPTS)


def cache_saving(prompt: int, new: int) -> Shown:
    """The share of policy `none`'s payload bytes that `hidden` and `kv` save, either way, by prompt and new tokens.

    The dashed line is where 99 % becomes true; the point is a reply. Raises UnsupportedOption.
    """
    import plotly.graph_objects as go

    words = saving_alt(prompt, new)
    news = PROMPTS[1:]
    table = [[round(reduction("kv", p, n), 4) for p in PROMPTS] for n in news]
    steps = list(SHADES)
    figure = go.Figure(
        go.Heatmap(
            x=PROMPTS, y=news, z=table, zmin=0, zmax=1, colorscale=_scale(steps),
            colorbar={"title": {"text": "saved", "side": "right"}, "tickvals": steps[1:], "tickformat": ".0%"},
            hovertemplate="%{x} prompt, %{y} new tokens: %{z:.2%} saved<extra></extra>",
        ),
        layout=layout(HEIGHT + 90, width=WIDTH + 190, margin={"l": 60, "r": 20, "t": 30, "b": 60}),
    )  # fmt: skip
    line = border(MARK)
    figure.add_scatter(
        x=[p for p, _ in line], y=[n for _, n in line], mode="lines", name="99 % from here on",
        line={"color": LINE, "dash": "dash", "width": 3}, hovertemplate="99 %: %{x} prompt, %{y} new<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=[prompt], y=[new], mode="markers", name=f"this reply: {percent(reduction('kv', prompt, new))}",
        marker={"symbol": "diamond", "size": 13, "color": LINE, "line": {"color": INK, "width": 2}},
    )  # fmt: skip
    figure.update_layout(legend={"orientation": "h", "y": 1.12, "x": 0})
    figure.update_xaxes(title="prompt tokens", type="log", range=[0, 3.0103], zeroline=False)
    figure.update_yaxes(title="new tokens", type="log", range=[0.15, 3.0103], zeroline=False)
    return show(figure, saving_sketch(prompt, new).png(small=True), words)


def _scale(steps: list[float]) -> list[list[object]]:
    """A colour scale in steps."""
    ends = [*steps[1:], 1.0]
    return [[at, SHADES[low]] for low, high in zip(steps, ends, strict=True) for at in (low, high)]


def saving_sketch(prompt: int, new: int) -> Sketch:
    """The map as a sketch."""
    sheet = Sketch(WIDTH, HEIGHT)
    axes = Axes(sheet, (1, LARGEST), (1, LARGEST), "prompt tokens (log scale)", "new tokens (log scale)", log_y=True,
                log_x=True, right=44, top=26)  # fmt: skip
    for share, colour in SHADES.items():
        line = border(share) if share else ((1, 1), (LARGEST, 1))
        points = [(axes.x(p), axes.y(n)) for p, n in line]
        said = f"{share:.0%} or more saved" if share else "less than 50% saved"
        sheet.shapes.append(Shape("area", [*points, (axes.right, axes.top), (axes.left, axes.top)], colour, said=said))
        if share:
            sheet.text(axes.right + 5, points[-1][1] + 4, f"{share:.0%}".replace("%", " %"))
    mark = [(axes.x(p), axes.y(n)) for p, n in border(MARK)]
    _dots(sheet, axes, mark)
    for colour, width in ((PAPER, 5.0), (LINE, 3.0)):
        said = "99 % of the bytes of policy none are saved from here on"
        sheet.shapes.append(Shape("line", mark, colour, said=said, dashed=colour == LINE, width=width))
    x, y = axes.x(min(prompt, LARGEST)), axes.y(min(new, LARGEST))
    sheet.mark(x, y, "diamond", PAPER, 10)
    sheet.mark(x, y, "diamond", INK, 8)
    sheet.mark(x, y, "diamond", LINE, 5, f"{prompt} prompt, {new} new tokens: {percent(reduction('kv', prompt, new))}")
    return sheet


def _dots(sheet: Sketch, axes: Axes, line: list[tuple[float, float]]) -> None:
    """White dots where 99 % is true, so that the colour is not the only cue."""
    step = 12
    for row, y in enumerate(range(round(axes.top) + 6, round(axes.bottom), step)):
        for x in range(round(axes.left) + 6 + step // 2 * (row % 2), round(axes.right) - 2, step):
            below = next((min(a[1], b[1]) for a, b in zip(line, line[1:], strict=False) if a[0] <= x <= b[0]), 0)
            if y < below - 6:
                sheet.mark(x, y, "square", PAPER, 1.2)


def saving_alt(prompt: int, new: int) -> str:
    """One sentence that says what the map shows."""
    share = reduction("kv", prompt, new)
    there = reaches(prompt, MARK) or LARGEST
    side = "on or above" if new >= there else "below"
    ends = ", ".join(f"{n} with {p:,}" for p, n in ((p, reaches(p, MARK)) for p in (1, 32, LARGEST)))
    return (
        "Share of the payload bytes of policy none that a cache saves, by prompt and new tokens, "
        f"1 to {LARGEST:,} each; 99 % is true from a number of new tokens on, {ends} prompt tokens. This reply, "
        f"{prompt:,} prompt and {new:,} new tokens, saves {percent(share)}, {side} the line: 99 % from {there:,} new "
        "tokens on."
    )
