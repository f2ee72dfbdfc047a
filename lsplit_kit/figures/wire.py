"""What WireTap shows besides lanes and vector: the running totals, and all of it as one PNG and in words."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from .lanes import Lanes, is_control, lanes_alt, lanes_sketch
from .style import INK, PAPER
from .vector import hex_lines, vector_alt, vector_sketch

if TYPE_CHECKING:
    import pandas as pd

    from ..measure.crossing import Look
    from ..wire.tap import Crossing

WHO = {"stream": "the link's own meter", "tcp": "the kernel's TCP"}
LINE = 18  # units
CELL = "style='text-align:right;padding:2px 6px'"  # narrow enough for half a page


def control_bytes(crossings: Sequence[Crossing]) -> tuple[int, int]:
    """Frame bytes (up, down) of the control frames."""
    up, down = (sum(c.frame for c in crossings if is_control(c) and c.direction == way) for way in ("up", "down"))
    return up, down


def totals_html(
    totals: pd.DataFrame, control: tuple[int, int] = (0, 0), counters: Mapping[str, tuple[int, int]] | None = None
) -> str:
    """A tap's running totals as a table, exact values in `data-value`.

    control: frame bytes of the control frames (up, down), a part of `frame`; counters: bytes (up, down) as others
    counted them ("stream", "tcp").
    """
    told = dict.fromkeys(totals.columns, "") | {"control": "frame bytes of control frames, counted in frame too"}
    head = "".join(f"<th scope='col' title='{words}' {CELL}>{name}</th>" for name, words in told.items())
    rows = ""
    for way, more in zip(("up", "down"), control, strict=True):
        numbers = [(str(name), int(totals.loc[way, name])) for name in totals.columns] + [("control", more)]
        cells = "".join(f"<td class='wire-{way}-{n}' data-value='{v}' {CELL}>{v:,}</td>" for n, v in numbers)
        rows += f"<tr><th scope='row' style='text-align:left'>Bytes {way}</th>{cells}</tr>"
    said = "; ".join(f"{WHO.get(who, who)} counted {u:,} up and {d:,} down" for who, (u, d) in (counters or {}).items())
    below = f"<p class='wire-counters' style='margin:4px 0'>{escape(said[:1].upper() + said[1:])}.</p>" if said else ""
    return (
        "<div class='wire-totals' style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>"
        "<div style='overflow-x:auto'><table style='border-collapse:collapse'><thead><tr><td></td>"
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>{below}</div>"
    )


def totals_words(totals: pd.DataFrame) -> str:
    """The totals as one sentence."""
    ways = [", ".join(f"{int(totals.loc[way, name]):,} {name}" for name in totals.columns) for way in ("up", "down")]
    return f"Bytes up: {ways[0]}; bytes down: {ways[1]}."


def wire_alt(lanes: Lanes, totals: pd.DataFrame, seen: Look | None) -> str:
    """What the panel shows, in words: the lanes, the totals, and the chosen crossing."""
    if not lanes.crossings:
        return lanes_alt(lanes)
    chosen = f" Crossing {seen.index}: {vector_alt(seen)}" if seen is not None else ""
    return f"{lanes_alt(lanes)} {totals_words(totals)}{chosen}"


def wire_png(lanes: Lanes, totals: pd.DataFrame, seen: Look | None) -> bytes:
    """The panel as PNG bytes: lanes, totals, and the chosen crossing with its vector and first payload bytes."""
    from PIL import Image, ImageDraw

    from .paint import SCALE, png, text

    chart = lanes_sketch(lanes)
    said = textwrap.wrap(totals_words(totals), chart.width // 7)
    said += textwrap.wrap(vector_alt(seen), chart.width // 7) if seen is not None else []
    plot = vector_sketch(seen) if seen is not None and seen.values else None
    dump = hex_lines(seen.head) if seen is not None else []
    below = max(plot.height if plot else 0, LINE * len(dump) + 8)
    sheet = Image.new("RGB", (chart.width * SCALE, (chart.height + LINE * len(said) + below + 16) * SCALE), PAPER)
    pen = ImageDraw.Draw(sheet)
    chart.paint(sheet, pen)
    y = chart.height + 8
    for line in said:
        text(pen, 8, y, line, INK, 12, "lm")
        y += LINE
    if plot:
        plot.paint(sheet, pen, 0, y)
    for k, line in enumerate(dump):
        text(pen, plot.width + 12 if plot else 8, y + 12 + LINE * k, line, INK, 12, "lm")
    return png(sheet, colours=128)
