"""What the host computes under each cache policy: FLOPs of the first time, and FLOPs done again, as bars."""

from __future__ import annotations

from collections.abc import Mapping

from ..measure.recompute import Flops
from .hatch import hatch
from .numbers import human
from .show import Shown, show
from .sketch import Sketch
from .style import BODY, PAPER, layout

WIDTH, BAR, GAP, LEFT, RIGHT, TOP = 390, 26, 16, 62.0, 120, 30  # units
AGAIN = "#D55E00"
ONCE, TWICE = "each position once", "done again"


def recomputed(flops: Mapping[str, Flops], policy: str = "") -> Shown:
    """One bar for each policy, FLOPs of the body in a reply; those done again are hatched. policy: is marked.

    Raises ValueError without a bar.
    """
    import plotly.graph_objects as go

    words = recomputed_alt(flops)
    names = [f"<b>{name}</b>" if name == policy else name for name in flops]
    figure = go.Figure(layout=layout(90 + 50 * len(flops), width=WIDTH + 190, barmode="stack",
                                     margin={"l": 70, "r": 20, "t": 30, "b": 50}))  # fmt: skip
    for name, at, colour, pattern in ((ONCE, 0, BODY, "."), (TWICE, 1, AGAIN, "/")):
        figure.add_bar(
            y=names, x=[each[at] for each in flops.values()], name=name, orientation="h",
            marker={"color": colour, "pattern": {"shape": pattern}}, hovertemplate="%{y}: %{x:.3s}FLOP<extra></extra>",
        )  # fmt: skip
    figure.update_layout(legend={"orientation": "h", "y": 1.2, "x": 0, "traceorder": "normal"})
    figure.update_xaxes(title="FLOPs of the body", zeroline=False)
    figure.update_yaxes(autorange="reversed")
    return show(figure, recomputed_sketch(flops, policy).png(small=True), words)


def recomputed_sketch(flops: Mapping[str, Flops], policy: str = "") -> Sketch:
    """The bars as a sketch."""
    sheet = Sketch(WIDTH, TOP + len(flops) * (BAR + GAP) + 26)
    sheet.text(4, 14, "FLOPs of the body in this reply")
    most = max((each.total for each in flops.values()), default=1)
    least = min((each.total for each in flops.values()), default=1)
    for row, (name, each) in enumerate(flops.items()):
        top = TOP + row * (BAR + GAP)
        middle = LEFT + (WIDTH - LEFT - RIGHT) * each.first / most
        right = LEFT + (WIDTH - LEFT - RIGHT) * each.total / most
        if name == policy:
            sheet.mark(7, top + BAR / 2, "diamond", AGAIN, 4.5, "the policy in force")
        sheet.text(LEFT - 8, top + BAR / 2 + 4, name, "end")
        sheet.box(LEFT, top, max(middle, LEFT + 1), top + BAR, BODY, f"{name}: {human(each.first, 'FLOP')}, {ONCE}")
        if each.again:
            sheet.box(middle, top, right, top + BAR, AGAIN, f"{name}: {human(each.again, 'FLOP')} {TWICE}")
            hatch(sheet, middle, top, right, top + BAR, PAPER)
        times = each.total / least
        shown = f", x {times:.{0 if times >= 10 else 1}f}" if each.total > least else ""
        sheet.text(max(right, LEFT + 1) + 6, top + BAR / 2 + 4, human(each.total, "FLOP") + shown)
    x, y = LEFT, sheet.height - 6
    for name, colour in ((ONCE, BODY), (TWICE, AGAIN)):
        sheet.box(x, y - 11, x + 14, y + 1, colour)
        if colour == AGAIN:
            hatch(sheet, x, y - 11, x + 14, y + 1, PAPER, gap=4)
        sheet.text(x + 20, y, name)
        x += 42 + 6.5 * len(name)
    return sheet


def recomputed_alt(flops: Mapping[str, Flops]) -> str:
    """One sentence that says what the bars show."""
    if not flops:
        raise ValueError("Give at least one policy with its FLOPs.")
    parts = [
        f"{name} {human(each.total, 'FLOP')}"
        + (f" ({each.again / each.total:.0%} of it done again)" if each.again else "")
        for name, each in flops.items()
    ]
    return f"FLOPs of the body in one reply by cache policy: {', '.join(parts)}."
