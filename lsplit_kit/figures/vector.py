"""One crossing's vector: its values as a small plot, its largest channels, the first bytes of the payload in hex."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .axes import Axes
from .lanes import crossing_words
from .picture import CELL
from .sketch import Shape, Sketch
from .stack import counted
from .style import HEAD

if TYPE_CHECKING:
    from ..measure.crossing import Look

WIDTH, HEIGHT = 400, 190  # units
LINE = 16  # bytes in a line of the hex dump


def hex_lines(raw: bytes) -> list[str]:
    """`0000  7a 20 fe ...`, sixteen bytes a line."""
    return [f"{at:04x}  {raw[at : at + LINE].hex(' ')}" for at in range(0, len(raw), LINE)]


def vector_alt(seen: Look) -> str:
    """One sentence that says what the crossing carries."""
    words = crossing_words(seen.crossing)
    if not seen.values:
        return f"{words}. {seen.why}"
    place = f" ({seen.place})" if seen.place else ""
    largest = ", ".join(f"{seen.unit} {k}: {value:.3g}" for k, value in seen.largest[:3])
    many = counted(len(seen.values), "value")
    return f"{words}. Vector {seen.at}{place} of {seen.vectors:,}: {many}, the largest {largest}."


def vector_sketch(seen: Look) -> Sketch:
    """The vector's values by channel, the largest marked; without values an empty sheet that says why."""
    sheet = Sketch(WIDTH, HEIGHT)
    if not seen.values:
        sheet.text(8, 24, seen.why)
        return sheet
    low, high = min(0.0, *seen.values), max(0.0, *seen.values)
    high = high if high > low else low + 1
    last = max(len(seen.values) - 1, 1)
    axes = Axes(sheet, (0, last), (low, high), seen.unit, "value", left=56, top=24)
    zero = axes.y(0)
    # One line through all values: a stroke from zero and back for each, so that a page gets one element.
    points = [(axes.x(k), y) for k, value in enumerate(seen.values) for y in (zero, axes.y(value), zero)]
    sheet.shapes.append(Shape("line", points, HEAD, width=max(0.8, min(4.0, 200 / len(seen.values)))))
    for k, value in seen.largest[:3]:
        sheet.mark(axes.x(k), axes.y(value), "diamond", "", 3.5, f"{seen.unit} {k}: {value:.4g}")
    return sheet


def vector_html(seen: Look) -> str:
    """The crossing's sentence, the plot, the table of its largest channels, and the first payload bytes."""
    c = seen.crossing
    mark = f"class='wire-chosen' data-crossing='{seen.index}'"
    head = f"<p {mark} style='margin:6px 0'><b>{escape(crossing_words(c))}</b></p>"
    parts = ""
    if seen.values:
        place = f" ({seen.place})" if seen.place else ""
        rows = "".join(
            f"<tr><th scope='row' {CELL}>{k}</th><td data-value='{value!r}' {CELL}>{value:.4g}</td></tr>"
            for k, value in seen.largest
        )
        parts = (
            f"<div><div>Vector {seen.at}{place} of {seen.vectors:,}</div>"
            f"{vector_sketch(seen).svg(vector_alt(seen), 'wire-vector')}</div>"
            "<table class='wire-largest' style='border-collapse:collapse'><caption>Largest values</caption><thead>"
            f"<tr><th scope='col' {CELL}>{seen.unit}</th><th scope='col' {CELL}>value</th></tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )
    elif seen.why:
        parts = f"<div class='wire-why'>{escape(seen.why)}</div>"
    dump = ""
    if seen.head:
        left = len(c.data) - len(seen.head)
        more = f"\n... and {counted(left, 'byte')} more" if left > 0 else ""
        dump = (
            "<div style='min-width:0;max-width:100%'><div>First payload bytes</div>"
            "<pre class='wire-hex' style='margin:2px 0;overflow-x:auto'>"
            f"{escape(chr(10).join(hex_lines(seen.head)) + more)}</pre></div>"
        )
    return (
        "<div class='wire-look' style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>"
        f"{head}<div style='display:flex;flex-wrap:wrap;gap:8px 24px;align-items:flex-start'>{parts}{dump}</div></div>"
    )
