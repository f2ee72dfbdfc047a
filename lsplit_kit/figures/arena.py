"""What AttackArena shows: the coloured tokens, a table of what every attack reads there, and one sentence."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from .numbers import percent
from .picture import CELL
from .reading import COUNTED, WIDTH, Decode, reading_alt, reading_html, reading_png
from .style import INK

if TYPE_CHECKING:
    import pandas as pd

SAYS = "What the unsplit model would say next"
LONG = "text-align:left;padding:2px 8px;white-space:normal;min-width:260px"
TEXT = "The text itself, one token ahead: the prompt, and the reply"


@dataclass(frozen=True, repr=False)
class Bout:
    """One attack on one text: its rows of `Report.tokens`, how to write a token, and figures of all texts attacked.

    figures: as in a row of `measure.inversion.ladder`; why: the sentence of an attack that may not run, "" otherwise.
    beside: of an attack on what comes down, whose rows compare with what the unsplit model would say next, the rows
    that compare with the text itself.
    """

    attack: str
    observer: str
    place: str
    rows: pd.DataFrame | None = None
    decode: Decode | None = None
    figures: Mapping[str, Any] | None = None
    texts: int = 0
    why: str = ""
    beside: pd.DataFrame | None = None

    @property
    def who(self) -> str:
        """The attack, the observer and the place."""
        return f"{self.attack} by {self.observer}, {self.place}"

    def __repr__(self) -> str:
        return bout_alt(self)


def bout_alt(bout: Bout) -> str:
    """One sentence about the text that is shown, and one about all of them; or why there is no result."""
    if bout.rows is None or bout.decode is None or bout.figures is None:
        return f"{bout.who}: no result. {bout.why}".strip()
    words = f"{reading_alt(bout.rows, bout.decode, bout.who)} {figures_alt(bout.figures, bout.texts)}"
    return words if bout.beside is None else f"{SAYS}: {words} {beside_alt(bout.beside)}"


def beside_alt(rows: pd.DataFrame) -> str:
    """How much of the text itself an attack on what comes down has foretold, in one sentence."""
    found = [(kind, rows[rows.kind == kind].right) for kind in COUNTED]
    parts = [f"{right.sum()} of {len(right)} tokens of the {kind}" for kind, right in found if len(right)]
    return f"Of the text itself, one token ahead, its best guess is right for {' and '.join(parts)}."


def figures_alt(row: Mapping[str, Any], texts: int) -> str:
    """What an attack reads in all texts, in one sentence."""
    many = "this text" if texts == 1 else f"all {texts} texts"
    return (
        f"Over {many}, {row['tokens']:,} tokens: {percent(row['accuracy'])} right, {row['bits']:.2f} bits a token"
        f"{_interval(row)} of {row['h0']:.2f}; {row['fit_seconds']:.1f} CPU-s to fit, "
        f"{row['seconds_per_token']:.4f} a token{_queries(row)}."
    )


def _queries(row: Mapping[str, Any]) -> str:
    """What was asked of the learner's head, where anything was."""
    sent = row.get("queries", 0)
    return f"; {int(sent):,} tokens sent through the head" if sent > 0 else ""  # none is NaN beside others


def _interval(row: Mapping[str, Any]) -> str:
    known = row["low"] == row["low"]  # one text has no interval
    return f" ({round(row['low'], 2) + 0.0:.2f} to {round(row['high'], 2) + 0.0:.2f})" if known else ""


def bout_html(bout: Bout) -> str:
    """The tokens and the sentence; every number's exact value is in `data-` attributes."""
    if bout.rows is None or bout.decode is None or bout.figures is None:
        return refused_html("arena-refused", bout.why)
    row = bout.figures
    data = " ".join(f"data-{name}='{row[name]:.6g}'" for name in ("accuracy", "bits", "low", "high"))
    return (
        "<div style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>"
        f"<p class='arena-figures' {data} style='margin:6px 0'><b>{escape(bout.who)}.</b> "
        f"{escape(figures_alt(row, bout.texts))}</p>"
        f"{'' if bout.beside is None else _heading(SAYS)}{reading_html(bout.rows, bout.decode, bout.who)}"
        f"<p class='arena-words' style='margin:6px 0'>"
        f"{escape(reading_alt(bout.rows, bout.decode))}</p>{_beside_html(bout)}</div>"
    )


def _heading(words: str) -> str:
    return f"<p class='arena-heading' style='margin:6px 0'><b>{escape(words)}</b></p>"


def _beside_html(bout: Bout) -> str:
    if bout.beside is None or bout.decode is None:
        return ""
    return (
        f"<div class='arena-beside'>{_heading(TEXT)}{reading_html(bout.beside, bout.decode, TEXT, key=False)}"
        f"<p style='margin:6px 0'>{escape(beside_alt(bout.beside))}</p></div>"
    )


def refused_html(kind: str, why: str) -> str:
    """The place of a result that there is not, with the reason."""
    return (
        f"<p class='{kind}' style='border-left:4px solid #D55E00;padding-left:8px;margin:6px 0'>"
        f"<b>No result.</b> {escape(why)}</p>"
    )


def ladder_html(rows: Sequence[Mapping[str, Any]], chosen: str, refused: Mapping[str, str], down: bool = False) -> str:
    """A table with a row for each attack, the chosen one marked; refused: attacks that may not run, and why.

    down: the attacks are on what comes down.
    """
    about = "of what the unsplit model would say next" if down else "here"
    head = "".join(
        f"<th scope='col' {CELL}>{name}</th>"
        for name in ("right", "ten best", "bits a token", "95 % interval", "CPU-s to fit", "CPU-s a token")
    )
    body = ""
    for row in rows:
        cells = (percent(row["accuracy"]), percent(row["top10"]), f"{row['bits']:.2f}", _interval(row).strip(" ()"),
                 f"{row['fit_seconds']:.1f}", f"{row['seconds_per_token']:.4f}")  # fmt: skip
        body += table_row(row["attack"], chosen, "".join(f"<td {CELL}>{cell}</td>" for cell in cells))
    for attack, why in refused.items():
        body += table_row(attack, chosen, f"<td colspan='6' style='{LONG}'>{escape(why)}</td>")
    words = (
        f"What each attack reads {about}, over all texts. What a fit finds there already, it does not pay for again."
    )
    return (
        f"<p class='arena-about' style='line-height:1.5;margin:12px 0 0'>{words}</p>"
        "<div class='arena-scroll' style='overflow-x:auto;width:0;min-width:100%'><table class='arena-table' "
        f"aria-label='{words}' style='border-collapse:collapse;margin:6px 0;white-space:nowrap;line-height:1.5'>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def table_row(attack: str, chosen: str, cells: str) -> str:
    """A row of a table of attacks, marked where it is the chosen one."""
    now = " aria-current='true'" if attack == chosen else ""
    sign = "\u25b6 " if attack == chosen else ""
    return f"<tr{now}><th scope='row' style='text-align:left'>{sign}{escape(attack)}</th>{cells}</tr>"


def bout_png(bout: Bout) -> bytes:
    """What there is to see as PNG bytes."""
    from .paint import canvas, png, text

    if bout.rows is not None and bout.decode is not None and bout.figures is not None:
        who = f"{bout.who}. {figures_alt(bout.figures, bout.texts)} Here"
        who = who if bout.beside is None else f"{SAYS}: {who}"
        return reading_png(
            bout.rows, bout.decode, who, bout.beside, "" if bout.beside is None else beside_alt(bout.beside)
        )
    lines = textwrap.wrap(bout_alt(bout), WIDTH // 7)
    sheet, pen = canvas(WIDTH, 18 * len(lines) + 16)
    for k, words in enumerate(lines):
        text(pen, 8, 16 + 18 * k, words, INK, 12, "lm")
    return png(sheet)
