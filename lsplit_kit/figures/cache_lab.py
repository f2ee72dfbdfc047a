"""What CacheLab shows, as HTML with SVG, as PNG and in words: savings, recomputed FLOPs, and both caches."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ..measure.moments import Moment
from ..measure.recompute import Flops
from .caches import caches_alt, caches_sketch
from .numbers import percent
from .picture import CELL
from .recomputed import recomputed_alt, recomputed_sketch
from .saving import saving_alt, saving_sketch
from .style import INK

if TYPE_CHECKING:
    import pandas as pd

ROW = "display:flex;flex-wrap:wrap;gap:8px 24px;align-items:flex-start"
SHARES = ("saved up", "saved down", "saved both")


@dataclass(frozen=True)
class Reply:
    """A reply under a cache policy: token counts, `measure.cache_table`, FLOPs by policy, and the moments of a session.

    reaches: the fewest new tokens with which a whole reply saves 99 %, None for never; vector: bytes of one.
    """

    policy: str
    prompt: int
    new: int
    vector: int
    table: pd.DataFrame
    flops: Mapping[str, Flops]
    told: tuple[Moment, ...]
    reaches: int | None


def reply_alt(reply: Reply) -> str:
    """One sentence about the traffic of the reply."""
    row, last = reply.table.loc[("reply", "payload")], reply.table.loc[("last token", "payload")]
    said = (
        f"Policy {reply.policy}, {reply.prompt:,} prompt and {reply.new:,} new tokens: "
        f"{int(row['up']):,} payload bytes up and {int(row['down']):,} down"
    )
    if reply.policy != "none":
        said += f", {percent(row['saved both'])} less than without a cache"
        said += f" ({percent(last['saved both'])} less for the last token)"
    there = "never" if reply.reaches is None else f"from {reply.reaches:,} new tokens on"
    return f"{said}. With this prompt a cache saves 99 % of a whole reply {there}."


def traffic_html(reply: Reply) -> str:
    """The map, the bars, the sentence and the table; every number's exact value is in `data-value`."""
    row = reply.table.loc[("reply", "payload")]
    said = (
        f"<p class='cache-point' data-saved='{row['saved both']:.6f}' data-up='{int(row['up'])}' "
        f"data-down='{int(row['down'])}' style='margin:6px 0'><b>{escape(reply_alt(reply))}</b></p>"
    )
    charts = saving_sketch(reply.prompt, reply.new).svg(saving_alt(reply.prompt, reply.new), "cache-saving")
    charts += recomputed_sketch(reply.flops, reply.policy).svg(recomputed_alt(reply.flops), "cache-flops")
    return (
        "<div style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>"
        f"{said}<div style='{ROW}'>{charts}</div>{_table(reply)}</div>"
    )


def _table(reply: Reply) -> str:
    names = ["up", "down", "both", *SHARES]
    head = "".join(f"<th scope='col' {CELL}>{name}</th>" for name in names)
    body = ""
    for (what, kind), row in reply.table.iterrows():
        shown = {name: percent(row[name]) if name in SHARES else f"{row[name]:,.0f}" for name in names}
        cells = "".join(f"<td data-value='{row[name]:.15g}' {CELL}>{words}</td>" for name, words in shown.items())
        body += f"<tr><th scope='row' style='text-align:left'>{what}, {kind}</th>{cells}</tr>"
    return (
        "<div class='cache-scroll' style='overflow-x:auto;width:0;min-width:100%'><table class='cache-table' "
        "style='border-collapse:collapse;margin:6px 0'><caption style='text-align:left'>"
        f"Bytes; a vector has {reply.vector:,}. Saved: of those of policy none.</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def caches_html(reply: Reply, at: int) -> str:
    """Both caches at moment number `at`, from 0."""
    words, now = caches_alt(reply.told, at, reply.policy), reply.told[at]
    drawn = caches_sketch(reply.told, at, reply.policy, headline=False).svg(words, "cache-both")
    data = f"data-local='{now.local}' data-host='{now.host}' data-vectors='{now.vectors}' data-what='{now.what}'"
    return (
        f"<div style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'><p class='cache-now' {data} "
        f"style='margin:6px 0'>{escape(words)}</p>{drawn}</div>"
    )


def reply_png(reply: Reply, at: int) -> bytes:
    """All of it as PNG bytes."""
    from .paint import canvas, png, text

    left, right = saving_sketch(reply.prompt, reply.new), recomputed_sketch(reply.flops, reply.policy)
    below = caches_sketch(reply.told, at, reply.policy, headline=False)
    width = max(left.width + right.width + 24, below.width)
    lines = [textwrap.wrap(words, width // 7) for words in (reply_alt(reply), caches_alt(reply.told, at, reply.policy))]
    first = 12 + 18 * len(lines[0])
    second = first + left.height + 12 + 18 * len(lines[1])
    sheet, pen = canvas(width, second + below.height + 8)
    for top, words in ((12, lines[0]), (first + left.height + 12, lines[1])):
        for k, line in enumerate(words):
            text(pen, 8, top + 18 * k + 4, line, INK, 12, "lm")
    left.paint(sheet, pen, 0, first)
    right.paint(sheet, pen, left.width + 24, first)
    below.paint(sheet, pen, 0, second)
    return png(sheet, colours=128)
