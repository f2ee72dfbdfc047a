"""The stack of layers as a picture: one bar per decoder layer, and the two ends that always stay local."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .style import COLOURS, GREY, PATTERNS, layout

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLACES = {"head": "local", "body": "host", "tail": "local"}


def spans(layers: int, head: int, tail: int) -> dict[str, range]:
    """The places each part takes; -1 is the embedding and `layers` the final norm with the LM head."""
    return {"head": range(-1, head), "body": range(head, layers - tail), "tail": range(layers - tail, layers + 1)}


def counted(number: int, noun: str = "layer") -> str:
    """`1 layer`, `2 layers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def layer_name(place: int, layers: int) -> str:
    """What stands at a place of the picture."""
    return "embedding" if place < 0 else "norm and LM head" if place >= layers else f"decoder layer {place}"


def stack_figure(layers: int, head: int, tail: int, up: int, down: int) -> go.Figure:
    """Bars for head, body and tail of a model with `layers` decoder layers; up and down are bytes per token."""
    import plotly.graph_objects as go

    places = list(range(-1, layers + 1))
    figure = go.Figure(layout=layout(190, barmode="stack", bargap=0.12, showlegend=False))
    for part, span in spans(layers, head, tail).items():
        figure.add_bar(
            name=part, x=places, y=[1 if place in span else None for place in places],
            marker={"color": COLOURS[part], "line": {"width": 0},
                    # Without bgcolor the pattern replaces the colour.
                    "pattern": {"shape": PATTERNS[part], "bgcolor": COLOURS[part], "fgcolor": "white",
                                "size": 6, "solidity": 0.25}},
            customdata=[layer_name(place, layers) for place in places],
            hovertemplate="%{customdata}<extra>" + f"{part}, {PLACES[part]}</extra>",
        )  # fmt: skip
    figure.update_xaxes(
        range=[-1.7, layers + 0.7], fixedrange=True, showgrid=False, zeroline=False, showticklabels=False
    )
    figure.update_yaxes(range=[-0.75, 1.65], fixedrange=True, visible=False)
    figure.update_layout(margin={"l": 30, "r": 30, "t": 4, "b": 4}, **_marks(layers, head, tail, up, down))
    return figure


def _marks(layers: int, head: int, tail: int, up: int, down: int) -> dict[str, Any]:
    notes = []
    for part, span in spans(layers, head, tail).items():
        number = len(span) - (part != "body")
        notes.append({"x": (span.start + span.stop - 1) / 2, "y": 1.32, "text": f"<b>{part}</b><br>{counted(number)}"})
    lines = []
    # Two rows, so that the labels never meet, however thin the body is.
    ends = (head, -0.2, f"↑ up {up:,} B per token"), (layers - tail, -0.55, f"↓ down {down:,} B per token")
    for at, y, words in ends:
        side = "left" if at <= layers / 2 else "right"
        notes.append({"x": at - 0.5, "y": y, "text": f" {words} ", "xanchor": side})
        lines.append({"type": "line", "x0": at - 0.5, "x1": at - 0.5, "y0": y - 0.14, "y1": 1.1,
                      "line": {"color": GREY, "width": 2, "dash": "dot"}})  # fmt: skip
    return {"annotations": [{"showarrow": False, **note} for note in notes], "shapes": lines}


def stack_png(layers: int, head: int, tail: int, up: int, down: int) -> bytes:
    """The same picture as PNG bytes, drawn without a browser."""
    from .paint import SCALE, box, canvas, png, text

    width, edge = 800, 40
    cell = (width - 2 * edge) / (layers + 2)
    image, pen = canvas(width, 170)
    for part, span in spans(layers, head, tail).items():
        for place in span:
            left = edge + (place + 1) * cell
            box(image, left + 0.06 * cell, 44, left + 0.94 * cell, 110, COLOURS[part], PATTERNS[part])
        number = len(span) - (part != "body")
        text(pen, edge + (span.start + span.stop + 2) / 2 * cell, 22, f"{part}\n{counted(number)}", GREY)
    for at, y, words in ((head, 130, f"up {up:,} B per token"), (layers - tail, 154, f"down {down:,} B per token")):
        x = edge + (at + 1) * cell
        pen.line([x * SCALE, 40 * SCALE, x * SCALE, (y + 8) * SCALE], fill=GREY, width=2 * SCALE)
        left = at <= layers / 2
        text(pen, x + (8 if left else -8), y, words, GREY, anchor="lm" if left else "rm")
    return png(image)


def stack_alt(layers: int, head: int, tail: int, up: int, down: int) -> str:
    """One sentence that says what the picture shows."""
    return (
        f"Of {counted(layers, 'decoder layer')}, the head keeps {head} and the tail {tail} on the local side, the host "
        f"runs the {layers - head - tail} between; each token sends {up:,} bytes up and {down:,} bytes down."
    )
