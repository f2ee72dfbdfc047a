"""What an observer could paint while a picture was made: a row of pictures for each observer, beside the learner's.

An observer's pictures stand in a dashed frame, the learner's in a plain one, so that nobody needs the colours.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .show import Shown, show
from .style import BODY, HEAD, INK, layout

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..attacks.pictures import Strip

SIDE, GAP, HEAD_LINE, CAPTION = 96, 12, 24, 22  # units: a picture, the space between two, a row's title, a caption
MOST = 6  # pictures of a row, besides the learner's
DASH = 5  # units of a frame's dashes
COLOURS = 255  # of a drawing: enough for the eye, and a third of the bytes
OURS, THEIRS = HEAD, BODY


def chosen(strip: Strip, most: int = MOST) -> list[int]:
    """Which of a strip's pictures are shown: at most so many, evenly spaced, the first and the last among them."""
    count = len(strip.pictures)
    return sorted({round(at) for at in np.linspace(0, count - 1, min(most, count))})


def caption(strip: Strip, index: int) -> str:
    """`step 3: 16.2 dB` under a picture; `step 10: equal` where every pixel is right; the step alone without truth."""
    step = f"step {strip.calls[index] + 1}"
    if strip.psnr is None:
        return step
    psnr = strip.psnr[index]
    return f"{step}: equal" if math.isinf(psnr) else f"{step}: {psnr:.1f} dB"


def painted_alt(strips: Sequence[Strip]) -> str:
    """One sentence with every observer's first and last picture in numbers."""
    said = []
    for strip in strips:
        shown = chosen(strip)
        ends = ", ".join(dict.fromkeys(caption(strip, i) for i in (shown[0], shown[-1])))
        said.append(f"{strip.observer} by {strip.attack} ({ends})")
    beside = " beside the learner's picture" if strips and strips[0].truth is not None else ""
    return f"What could be painted from the wire{beside}: {'; '.join(said)}."


def painted(strips: Sequence[Strip] | Strip, most: int = MOST) -> Shown:
    """A row for each observer: pictures step by step with their PSNR, and the learner's own at the end.

    strips: of `attacks.pictures.paint`; most: pictures a row. Raises ValueError without any.
    """
    import plotly.graph_objects as go

    strips = list(strips) if isinstance(strips, Sequence) else [strips]
    if not strips:
        raise ValueError("Give at least one strip of pictures, as attacks.pictures.paint() makes them.")
    width, height = _size(strips, most)
    figure = go.Figure(layout=layout(height, width=width, margin={"l": 0, "r": 0, "t": 0, "b": 0}))
    figure.update_xaxes(range=[0, width], visible=False)
    figure.update_yaxes(range=[height, 0], visible=False)
    figure.add_scatter(x=[0, width], y=[0, height], mode="markers", marker={"opacity": 0}, hoverinfo="skip",
                       showlegend=False)  # fmt: skip
    for left, top, picture, words, ours in _places(strips, most):
        figure.add_layout_image(source=uri(picture), x=left, y=top, xref="x", yref="y", sizex=SIDE, sizey=SIDE,
                                xanchor="left", yanchor="top", sizing="stretch")  # fmt: skip
        frame = {"color": OURS if ours else THEIRS, "width": 3, "dash": "solid" if ours else "dash"}
        figure.add_shape(type="rect", x0=left - 2, y0=top - 2, x1=left + SIDE + 2, y1=top + SIDE + 2, line=frame)
        figure.add_annotation(x=left + SIDE / 2, y=top + SIDE + CAPTION / 2 + 2, text=words, showarrow=False,
                              font={"size": 11, "color": INK})  # fmt: skip
    for row, strip in enumerate(strips):
        figure.add_annotation(x=GAP, y=_top(row) - HEAD_LINE / 2, text=_title(strip), showarrow=False, xanchor="left",
                              font={"size": 13, "color": INK})  # fmt: skip
    return show(figure, painted_png(strips, most), painted_alt(strips))


def painted_png(strips: Sequence[Strip], most: int = MOST) -> bytes:
    """The same as PNG bytes, drawn without a browser."""
    from .paint import SCALE, canvas, enlarged, png, text

    sheet, pen = canvas(*_size(strips, most))
    for left, top, picture, words, ours in _places(strips, most):
        sheet.paste(enlarged(_image(picture), SIDE * SCALE), (left * SCALE, top * SCALE))
        _frame(pen, left - 2, top - 2, SIDE + 4, ours)
        text(pen, left + SIDE / 2, top + SIDE + CAPTION / 2 + 2, words, INK, size=11)
    for row, strip in enumerate(strips):
        text(pen, GAP, _top(row) - HEAD_LINE / 2, _title(strip), INK, anchor="lm")
    return png(sheet, colours=COLOURS)


def _title(strip: Strip) -> str:
    return f"{strip.observer.replace('_', ' ')}, {strip.attack}"


def _top(row: int) -> int:
    return GAP + HEAD_LINE + row * (SIDE + HEAD_LINE + CAPTION + GAP)


def _size(strips: Sequence[Strip], most: int) -> tuple[int, int]:
    columns = max(len(chosen(s, most)) + (s.truth is not None) for s in strips)
    return columns * (SIDE + GAP) + GAP, _top(len(strips)) - HEAD_LINE


def _places(strips: Sequence[Strip], most: int) -> list[tuple[int, int, np.ndarray, str, bool]]:
    """(left, top, picture, caption, whether it is the learner's own) of everything that is shown."""
    found = []
    for row, strip in enumerate(strips):
        shown = [(strip.pictures[i], caption(strip, i), False) for i in chosen(strip, most)]
        if strip.truth is not None:
            shown.append((strip.truth, "the learner's", True))
        found += [(GAP + i * (SIDE + GAP), _top(row), *item) for i, item in enumerate(shown)]
    return found


def _image(picture: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(picture)


def uri(picture: np.ndarray) -> str:
    """A picture uint8 [H, W, 3] as the address of an image on a page, with few colours."""
    from .paint import enlarged, png

    small = enlarged(_image(picture), min(2 * SIDE, max(picture.shape)))  # pages enlarge, notebooks stay small
    return f"data:image/png;base64,{base64.b64encode(png(small, colours=COLOURS)).decode('ascii')}"


def _frame(pen: object, left: int, top: int, side: int, ours: bool) -> None:
    """A square's outline, plain or dashed."""
    from .paint import SCALE

    colour, corners = OURS if ours else THEIRS, [(0, 0, 1, 0), (0, 1, 1, 1), (0, 0, 0, 1), (1, 0, 1, 1)]
    for x, y, x2, y2 in corners:
        count = 1 if ours else side // DASH
        for i in range(0, count, 2):
            a, b = i / count, (i + 1) / count
            ends = [left + side * (x + (x2 - x) * a), top + side * (y + (y2 - y) * a),
                    left + side * (x + (x2 - x) * b), top + side * (y + (y2 - y) * b)]  # fmt: skip
            pen.line([SCALE * end for end in ends], fill=colour, width=3 * SCALE)  # type: ignore[attr-defined]
