"""A text as an attack read it: every token right, among the ten best, or wrong; as HTML, as PNG and in words."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from .numbers import percent
from .show import Shown
from .style import INK, PAPER

if TYPE_CHECKING:
    import pandas as pd

Decode = Callable[[int], str | bytes]  # a token id -> its text; bytes where it is a part of a character
COUNTED = ("prompt", "reply")
# What a token is: its name, colour of the paper behind it, of its mark, the mark, and the sign that follows it.
LOOKS = {
    "right": ("right", "#cfe3f1", "#0072B2", "border-bottom:2px solid", ""),
    "near": ("among the ten best", "#fbe8c5", "#A36A00", "border-bottom:3px dotted", "?"),
    "wrong": ("wrong", "#f9dccb", "#D55E00", "border:2px solid", "\u00d7"),
    "apart": ("not counted", PAPER, "#767676", "border-bottom:1px dashed", ""),
}
SIGNS = {"\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d"}
WIDTH, LINE, SIZE, MOST = 620, 24, 12, 40  # units; lines of a picture
SAID = 300  # characters of the text that the sentence quotes


class Mark(NamedTuple):
    """A token as it is drawn: text (ready to be shown), what it is (a key of LOOKS), position, guess, rank, its end."""

    text: str
    what: str
    kind: str
    position: int
    guess: str
    rank: int
    ends: bool  # a new line begins after it


def shown(piece: str | bytes) -> str:
    """A token's text with everything that cannot be seen spelled out: <E2 82> for bytes, <U+200B> for such signs."""
    if isinstance(piece, bytes):
        return f"<{piece.hex(' ').upper()}>"
    return (
        "".join(SIGNS.get(sign) or (sign if sign.isprintable() else f"<U+{ord(sign):04X}>") for sign in piece)
        or "<nothing>"
    )


def marks(rows: pd.DataFrame, decode: Decode) -> list[Mark]:
    """The tokens of one conversation, from the rows of `Report.tokens`; raises ValueError for several of them."""
    if rows.conversation.nunique() > 1:
        raise ValueError("The rows are of several conversations; give those of one.")
    found = []
    for row in rows.sort_values("position").itertuples():
        what = "right" if row.right else "near" if 1 <= row.rank <= 10 else "wrong"
        piece = decode(int(row.truth))
        found.append(Mark(
            shown(piece), what if row.kind in COUNTED else "apart", str(row.kind), int(row.position),
            shown(decode(int(row.guess))), int(row.rank), isinstance(piece, str) and piece.endswith("\n"),
        ))  # fmt: skip
    return found


def guessed(rows: pd.DataFrame, decode: Decode) -> str:
    """The counted tokens as the attack read them, put together; what is no whole character becomes one sign."""
    own = rows[rows.kind.isin(COUNTED)].sort_values("position")
    pieces = [decode(int(token)) for token in own.guess]
    raw = b"".join(p if isinstance(p, bytes) else p.encode("utf-8", "replace") for p in pieces)
    return "".join(sign if sign.isprintable() else " " for sign in raw.decode("utf-8", "replace"))


def reading_alt(rows: pd.DataFrame, decode: Decode, who: str = "") -> str:
    """One sentence: how many tokens are right, and what the attack makes of the text."""
    found = marks(rows, decode)
    count = {what: sum(mark.what == what for mark in found) for what in LOOKS}
    total = len(found) - count["apart"]
    said = f"{who}: " if who else ""
    if not total:
        return f"{said}no token that counts."
    words = textwrap.shorten(guessed(rows, decode), SAID, placeholder=" ...")
    reads = f'"{words}"' if words else "nothing but space"
    return (
        f"{said}{count['right']} of {total} tokens right ({percent(count['right'] / total)}), {count['near']} more "
        f"among the ten best, {count['wrong']} wrong; {count['apart']} not counted. It reads {reads}."
    )


def reading_html(rows: pd.DataFrame, decode: Decode, who: str = "", key: bool = True) -> str:
    """The coloured tokens with a legend (key); pointing at one says its position, the guess and its rank."""
    found = marks(rows, decode)
    said = escape(reading_alt(rows, decode, who), quote=True)
    drawn = "".join(_span(mark) + ("<br>" if mark.ends else "") for mark in found)
    legend = " ".join(
        f"<span style='{_style(what)}'>{escape(name)}</span>{_sign(what)}" for what, (name, *_) in LOOKS.items()
    )
    legend = f"<div class='reading-key'>{legend}</div>" if key else ""
    # dir=auto: a text that runs from right to left does so here too; the box scrolls, by keyboard as well
    return (
        f"<div class='reading' style='line-height:1.9;max-width:100%'>{legend}"
        f"<div class='reading-text' role='img' tabindex='0' dir='auto' aria-label='{said}' style='margin:6px 0;"
        "max-height:340px;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere'>"
        f"{drawn}</div></div>"
    )


def _style(what: str) -> str:
    _, paper, ink, border, _ = LOOKS[what]
    look = f"background:{paper};color:{INK};{border} {ink}"
    if what == "apart":  # on the page's own paper, in the page's second colour
        look = f"background:none;color:var(--jp-ui-font-color2,{ink});{border} {ink}"
    return f"{look};unicode-bidi:isolate;padding:1px 0"


def _sign(what: str) -> str:
    sign = LOOKS[what][-1]
    return f"<sup aria-hidden='true'>{sign}</sup>" if sign else ""


def _hint(mark: Mark) -> str:
    rank = f"the truth has rank {mark.rank:,}" if mark.rank > 0 else "the truth is not among its guesses"
    return f"position {mark.position}, {mark.kind}: {LOOKS[mark.what][0]}; guess {mark.guess!r}, {rank}"


def _span(mark: Mark) -> str:
    data = f"data-position='{mark.position}' data-what='{mark.what}'"
    hint = escape(_hint(mark), quote=True)
    return (
        f"<span class='reading-token' {data} title='{hint}' style='{_style(mark.what)}'>{escape(mark.text)}</span>"
        + (_sign(mark.what))
    )


def plain(text: str) -> str:
    """The text in letters that Pillow's font has, where there are such: no accents, \\n for the sign of a new line."""
    for seen, sign in SIGNS.items():
        text = text.replace(sign, repr(seen)[1:-1])
    found = (
        unicodedata.normalize("NFKD", sign.replace("\u00df", "ss")).encode("ascii", "ignore").decode() or sign
        for sign in text
    )
    return "".join(found)


def reading_lines(rows: pd.DataFrame, decode: Decode) -> list[list[tuple[float, Mark]]]:
    """The tokens in lines of WIDTH units, each with its left edge; at most MOST lines."""
    from .paint import SCALE, font

    lines: list[list[tuple[float, Mark]]] = [[]]
    at = 8.0
    for mark in marks(rows, decode):
        pieces = textwrap.wrap(plain(mark.text), 60, drop_whitespace=False) or [plain(mark.text)]
        for text in pieces:
            wide = font(SIZE).getlength(text) / SCALE + 6
            if at + wide > WIDTH - 8 and lines[-1]:
                lines.append([])
                at = 8.0
            lines[-1].append((at, mark._replace(text=text)))
            at += wide + 2
        if mark.ends:
            lines.append([])
            at = 8.0
    return [line for line in lines if line]


def reading_png(
    rows: pd.DataFrame, decode: Decode, who: str = "", beside: pd.DataFrame | None = None, about: str = ""
) -> bytes:
    """The tokens as PNG bytes: right ones underlined, ten best dotted with ?, wrong ones in a box with a cross.

    beside: rows that are drawn below, under the words `about`.
    """
    from .paint import canvas, png

    parts, high = [], 0
    for own, words in ((rows, reading_alt(rows, decode, who)), *([] if beside is None else [(beside, about)])):
        lines = reading_lines(own, decode)
        left_off = sum(len(line) for line in lines[MOST:])
        head = textwrap.wrap(plain(words), WIDTH // 7)
        parts.append((head, lines[:MOST], left_off, high))
        high += 18 * len(head) + LINE * (min(len(lines), MOST) + 1 + bool(left_off)) + 20
    sheet, pen = canvas(WIDTH, high)
    for part in parts:
        paint_reading(pen, *part)
    return png(sheet)  # a palette would take two pale colours for one


def paint_reading(pen: Any, head: list[str], lines: list[list[tuple[float, Mark]]], left_off: int, top: float) -> None:
    """Words, a legend and the lines of tokens on a sheet of Pillow's, from `top` on."""
    from .paint import SCALE, font, text

    for k, words in enumerate(head):
        text(pen, 8, top + 12 + 18 * k, words, INK, SIZE, "lm")
    y, at = top + 18 * len(head) + 18, 8.0
    for what, (name, *_) in LOOKS.items():
        _paint(pen, at, y, Mark(name, what, "", 0, "", 1, False))
        at += font(SIZE).getlength(name) / SCALE + 28
    for line in lines:
        y += LINE
        for left, mark in line:
            _paint(pen, left, y, mark)
    if left_off:
        text(pen, 8, y + LINE, f"... and {left_off:,} tokens more", INK, SIZE, "lm")


def _paint(pen: Any, left: float, y: float, mark: Mark) -> None:
    from .paint import SCALE, font, text

    _, paper, ink, _, sign = LOOKS[mark.what]
    wide = font(SIZE).getlength(mark.text) / SCALE + 4
    box = [left * SCALE, (y - 9) * SCALE, (left + wide) * SCALE, (y + 9) * SCALE]
    pen.rectangle(box, fill=paper, outline=ink if mark.what == "wrong" else None, width=SCALE)
    step = {"right": 0, "near": 4, "apart": 8}.get(mark.what)
    if step == 0:
        pen.line([box[0], box[3], box[2], box[3]], fill=ink, width=2 * SCALE)
    elif step:
        for x in range(round(box[0]), round(box[2]), step * SCALE):
            pen.line([x, box[3], x + step * SCALE // 2, box[3]], fill=ink, width=SCALE * (2 if step == 4 else 1))
    text(pen, left + 2, y, mark.text, INK if mark.what != "apart" else "#767676", SIZE, "lm")
    if sign:
        text(pen, left + wide, y - 8, sign.replace("\u00d7", "x"), ink, 9, "mm")


class Read(Shown):
    """A reading as Jupyter displays it: HTML where there is a page, else the picture, else the sentence."""

    def __init__(self, html: str, png: bytes, alt: str) -> None:
        super().__init__(None, png, alt)
        self.html = html

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle, metadata = super()._repr_mimebundle_(include, exclude)
        return {**bundle, "text/html": self.html}, metadata


def reading(rows: pd.DataFrame, decode: Decode, who: str = "") -> Read:
    """One conversation of `Report.tokens` as coloured tokens: HTML, PNG and a sentence; raises ValueError."""
    return Read(reading_html(rows, decode, who), reading_png(rows, decode, who), reading_alt(rows, decode, who))
