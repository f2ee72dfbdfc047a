"""The numbers of a plan as HTML: a table with one column per machine, and what one token costs on the wire."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..figures.numbers import human

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PAD", "STYLE", "human", "readout_html", "reply_html", "sides"]
PAD = "style='text-align:right;padding:2px 12px'"
# A keyboard user must see where the handles are and which has the focus, on any page.
HANDLES = ":is(.split-slider,.quant-knob,.cache-knob) .noUi-handle"
STYLE = (
    f"<style>{HANDLES}{{box-shadow:0 0 0 2px var(--jp-ui-font-color2,#767676)}}"
    f"{HANDLES}:focus{{outline:3px solid var(--jp-ui-font-color1,#E69F00);outline-offset:3px}}</style>"
)


def sides(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """SplitPlan.table by machine, "local" and "host"; memory counts a tensor that head and tail share once."""
    found = {}
    for side, rows in table.groupby("side"):
        numbers = {"flops_per_token": rows["flops_per_token"].sum(), "memory_bytes": rows["memory_bytes"].iloc[0]}
        found[str(side)] = {name: int(number) for name, number in numbers.items()}
    return found


def readout_html(table: pd.DataFrame, up: int, down: int, up_codec: str, down_codec: str) -> str:
    """The readout: every number's exact value is in `data-value`; up and down are payload bytes per token."""
    by = sides(table)
    layers = {part: escape(str(table.loc[part, "layers"])) for part in ("head", "body", "tail")}
    memory = "".join(_cell(by[s]["memory_bytes"], "B", f"lsplit-{s}-memory") for s in ("local", "host"))
    flops = "".join(_cell(by[s]["flops_per_token"], "FLOP") for s in ("local", "host"))
    return (
        "<div class='lsplit-readout' style='line-height:1.5'><table style='border-collapse:collapse'>"
        f"<thead><tr><td></td><th scope='col' {PAD}>Local side</th><th scope='col' {PAD}>Host</th></tr></thead><tbody>"
        f"<tr><th scope='row'>Decoder layers</th><td {PAD}>head {layers['head']}, tail {layers['tail']}</td>"
        f"<td {PAD}>body {layers['body']}</td></tr>"
        f"<tr><th scope='row'>Memory for weights</th>{memory}</tr>"
        f"<tr><th scope='row'>FLOPs per token</th>{flops}</tr></tbody></table>"
        f"<p style='margin:6px 0'>Each token sends <b id='lsplit-up' data-value='{up}'>{up:,}</b> bytes up "
        f"({escape(up_codec)}) and <b id='lsplit-down' data-value='{down}'>{down:,}</b> bytes down "
        f"({escape(down_codec)}).</p></div>"
    )


def _cell(number: int, unit: str, name: str = "") -> str:
    mark = f" id='{name}'" if name else ""
    return f"<td{mark} data-value='{number}' title='{number:,}' {PAD}>{human(number, unit).replace(' ', '&nbsp;')}</td>"


def reply_html(text: str, status: str, failed: bool = False, note: str = "") -> str:
    """The streamed text, one line of state and a note; all are escaped, because a model may write HTML."""
    tone = "border-left:4px solid #D55E00;padding-left:8px" if failed else ""
    shown = f"<pre class='lsplit-reply' style='white-space:pre-wrap;margin:4px 0'>{escape(text)}</pre>" if text else ""
    below = f"<div class='lsplit-note'>{escape(note)}</div>" if note else ""
    state = f"<div class='lsplit-status' style='{tone}'>{escape(status)}</div>"
    return f"{shown}<div style='line-height:1.5'>{state}{below}</div>"
