"""The numbers of a plan as HTML: a table with one column per machine, and what one token costs on the wire."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ROWS = (("parameters", "Parameters", ""), ("bytes", "Weights", "B"), ("flops_per_token", "FLOPs per token", "FLOP"))


def human(number: float, unit: str) -> str:
    """`169.9 MB`, `1.2 GFLOP`, `512 B`, `92.0 M`: decimal prefixes, one digit after the point."""
    value = float(number)
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.95 or prefix == "P":
            break
        value /= 1000
    return f"{value:.1f} {prefix}{unit}".strip() if prefix else f"{number:,.0f} {unit}".strip()


def sides(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """SplitPlan.table by machine, "local" and "host"; memory is one process per machine, so it is not added up."""
    found = {}
    for side, rows in table.groupby("side"):
        numbers = {column: int(rows[column].sum()) for column, _, _ in ROWS}
        found[str(side)] = {**numbers, "memory_bytes": int(rows["memory_bytes"].iloc[0])}
    return found


def readout_html(table: pd.DataFrame, up: int, down: int, up_codec: str, down_codec: str) -> str:
    """The readout: every number's exact value is in `data-value`; up and down are payload bytes per token."""
    by = sides(table)
    lines = []
    for column, label, unit in ROWS:
        cells = "".join(_cell(by[side][column], unit) for side in ("local", "host"))
        lines.append(f"<tr><th scope='row'>{label}</th>{cells}</tr>")
    memory = "".join(_cell(by[s]["memory_bytes"], "B", f"lsplit-{s}-memory") for s in ("local", "host"))
    layers = {part: escape(str(table.loc[part, "layers"])) for part in ("head", "body", "tail")}
    pad = "style='text-align:right;padding:2px 12px'"
    return (
        "<div class='lsplit-readout' aria-live='polite' style='line-height:1.5'>"
        "<table style='border-collapse:collapse'><thead><tr><td></td>"
        f"<th scope='col' {pad}>Local side</th><th scope='col' {pad}>Host</th></tr></thead><tbody>"
        f"<tr><th scope='row'>Decoder layers</th><td {pad}>head {layers['head']}, tail {layers['tail']}</td>"
        f"<td {pad}>body {layers['body']}</td></tr>"
        f"{''.join(lines)}<tr><th scope='row'>Memory for weights</th>{memory}</tr></tbody></table>"
        f"<p style='margin:6px 0'>Each token sends <b id='lsplit-up' data-value='{up}'>{up:,}</b> bytes up "
        f"({escape(up_codec)}) and <b id='lsplit-down' data-value='{down}'>{down:,}</b> bytes down "
        f"({escape(down_codec)}).</p></div>"
    )


def _cell(number: int, unit: str, name: str = "") -> str:
    mark = f" id='{name}'" if name else ""
    return (
        f"<td{mark} data-value='{number}' title='{number:,}' style='text-align:right;padding:2px 12px'>"
        f"{human(number, unit)}</td>"
    )


def reply_html(text: str, status: str, failed: bool = False) -> str:
    """The streamed text and one line of state; both are escaped, because a model may write HTML."""
    tone = "border-left:4px solid #D55E00;padding-left:8px" if failed else ""
    shown = f"<pre class='lsplit-reply' style='white-space:pre-wrap;margin:4px 0'>{escape(text)}</pre>" if text else ""
    return f"{shown}<div class='lsplit-status' role='status' style='{tone}'>{escape(status)}</div>"
