"""What LinkLab shows, as HTML with SVG, as PNG and in words: bars of the deployments, the crossover map, a table."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ..measure.latency import Times
from ..wire.network import Network
from .crossover import Crossover, crossover_alt, crossover_sketch
from .sketch import Sketch
from .style import INK, PAPER
from .timing import bars_alt, bars_sketch, seconds

if TYPE_CHECKING:
    import pandas as pd

ROW = "display:flex;flex-wrap:wrap;gap:8px 24px;align-items:flex-start"
CELL = "style='text-align:right;padding:2px 12px'"
TIMES = {"first": "first token", "per_token": "each later token", "total": "whole reply"}


@dataclass(frozen=True)
class LinkSeen:
    """One network and one reply: the budget (`measure.budget`), the map, what was measured, and whose times they are.

    source: where the parts' times come from; codec: its spec; payload: bytes of a vector up and down.
    """

    network: Network
    prompt: int
    reply: int
    codec: str
    payload: tuple[int, int]
    speeds: tuple[float, float]
    source: str
    table: pd.DataFrame
    map: Crossover
    measured: Mapping[str, Times]


def link_alt(seen: LinkSeen) -> str:
    """Two or three sentences that say what the panel shows."""
    name = f"{seen.network.name}: " if seen.network.name else ""
    net = f"{name}{seen.network}"
    asked = f"{seen.prompt} prompt and {seen.reply} new tokens, {seen.codec} ({seen.payload[0]:,} bytes up a vector)"
    local, host = seen.speeds
    fast = f"local side x {local:g}, host x {host:g}"
    return f"{net}; {asked}; {fast}. {bars_alt(seen.table, seen.measured)} {crossover_alt(seen.map)}"


def sketches(seen: LinkSeen) -> list[tuple[Sketch, str, str]]:
    """The charts as (sketch, its sentence, its class)."""
    return [
        (bars_sketch(seen.table, seen.measured), bars_alt(seen.table, seen.measured), "link-bars"),
        (crossover_sketch(seen.map), crossover_alt(seen.map), "link-map"),
    ]


def link_html(seen: LinkSeen) -> str:
    """Charts and table in the page's own text colour; every number's exact value is in `data-value`."""
    charts = "".join(sketch.svg(alt, name) for sketch, alt, name in sketches(seen))
    head = "".join(f"<th scope='col' {CELL}>{words}</th>" for words in TIMES.values())
    head += f"<th scope='col' {CELL}>measured</th>" if seen.measured else ""
    rows = ""
    for name, row in seen.table.iterrows():
        cells = "".join(f"<td data-value='{float(row[key])!r}' {CELL}>{seconds(float(row[key]))}</td>" for key in TIMES)
        if seen.measured:
            times = seen.measured.get(str(name))
            cells += f"<td data-value='{times.total!r}' {CELL}>{seconds(times.total)}</td>" if times else "<td></td>"
        rows += f"<tr><th scope='row' style='text-align:left'>{name}</th>{cells}</tr>"
    return (
        "<div class='link-seen' style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>"
        f"<div style='{ROW}'>{charts}</div><table style='border-collapse:collapse'><thead><tr><td></td>{head}</tr>"
        f"</thead><tbody>{rows}</tbody></table>"
        f"<p class='link-source' style='margin:6px 0'>{escape(seen.source)}; the network is emulated.</p></div>"
    )


def link_png(seen: LinkSeen) -> bytes:
    """The charts, one below the other, and the sentences, as PNG bytes."""
    from PIL import Image, ImageDraw

    from .paint import SCALE, png, text

    charts = [sketch for sketch, _, _ in sketches(seen)]
    width = max(chart.width for chart in charts) + 16
    said = textwrap.wrap(f"{link_alt(seen)} {seen.source}; the network is emulated.", width // 7)
    tall = 12 + sum(chart.height + 12 for chart in charts) + 18 * len(said)
    sheet = Image.new("RGB", (width * SCALE, tall * SCALE), PAPER)
    pen, y = ImageDraw.Draw(sheet), 8
    for chart in charts:
        chart.paint(sheet, pen, 8, y)
        y += chart.height + 12
    for line in said:
        text(pen, 8, y + 6, line, INK, 12, "lm")
        y += 18
    return png(sheet, colours=64)
