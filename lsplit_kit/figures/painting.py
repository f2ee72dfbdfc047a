"""What the picture tab of AttackArena shows: what was painted beside the learner's picture, a table, a sentence.

As in `painted`, an attacker's pictures have a dashed frame and the learner's a plain one.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from .arena import refused_html, table_row
from .painted import OURS, THEIRS, painted_png, uri
from .picture import CELL
from .style import INK

if TYPE_CHECKING:
    from ..attacks.pictures import Strip
    from ..attacks.pictures.recorded import ReadPrompt

LARGE, SMALL = 168, 60  # units of a page: the two pictures, those of the strip
NOW = "\u25b6 "  # before the step that is shown
WIDTH = 760  # of the PNG where there is only a sentence


@dataclass(frozen=True, repr=False)
class Canvas:
    """What an attack painted of one picture by a step; why: the sentence of an attack that may not run.

    step: index into the strip. read: the prompt as it was read, None for an observer who does not see its embeddings.
    """

    attack: str
    observer: str
    place: str
    strip: Strip | None = None
    step: int = 0
    seconds: tuple[float, float] = (0.0, 0.0)  # to fit, to read a picture
    read: ReadPrompt | None = None
    why: str = ""

    @property
    def who(self) -> str:
        """The attack, the observer and the place."""
        return f"{self.attack} by {self.observer}, {self.place}"

    def __repr__(self) -> str:
        return canvas_alt(self)


def level(psnr: float) -> str:
    """`equal`, or PSNR in dB."""
    return "equal" if math.isinf(psnr) else f"{psnr:.1f} dB"


def canvas_alt(canvas: Canvas) -> str:
    """What was painted by this step and at the end, its cost, and what was read of the prompt; or why nothing was."""
    strip = canvas.strip
    if strip is None or strip.psnr is None or strip.ssim is None:
        return f"{canvas.who}: no result. {canvas.why}".strip()
    at, end = canvas.step, len(strip.pictures) - 1
    then = "" if at == end else f", in the end {_apart(strip, end)} it"
    fit, reading = canvas.seconds
    return (
        f"{canvas.who}: after step {strip.calls[at] + 1} of {strip.calls[end] + 1} the picture painted is "
        f"{_apart(strip, at)} the learner's{then}; {fit:.1f} CPU-s to fit, "
        f"{reading:.2f} a picture. {prompt_alt(canvas)}"
    )


def _apart(strip: Strip, at: int) -> str:
    assert strip.psnr is not None and strip.ssim is not None
    return "equal to" if math.isinf(strip.psnr[at]) else f"{strip.psnr[at]:.1f} dB (SSIM {strip.ssim[at]:.3f}) from"


def prompt_alt(canvas: Canvas) -> str:
    """What the observer reads of the prompt."""
    if canvas.read is None:
        return f"The text embeddings do not cross in the sight of {canvas.observer}, so no prompt is read."
    right = "every token is right" if canvas.read.exact else "not every token is right"
    return f'From the text embeddings PromptMatch reads "{canvas.read.read}": {right}.'


def canvas_html(canvas: Canvas) -> str:
    """Two large pictures, the strip with this step marked, the sentence; exact numbers are in `data-` attributes."""
    strip = canvas.strip
    if strip is None or strip.psnr is None or strip.ssim is None or strip.truth is None:
        return refused_html("paint-refused", canvas.why)
    at = canvas.step
    step = f"step {strip.calls[at] + 1}"
    pair = _figure(strip.pictures[at], f"{canvas.attack}, {step}", LARGE, "paint-theirs")
    pair += _figure(strip.truth, "the learner's", LARGE, "paint-ours", ours=True)
    row = "".join(
        _figure(picture, NOW * (i == at) + str(strip.calls[i] + 1), SMALL, "paint-frame", now=i == at)
        for i, picture in enumerate(strip.pictures)
    )
    data = f"data-psnr='{strip.psnr[at]:.6g}' data-ssim='{strip.ssim[at]:.6g}' data-step='{strip.calls[at] + 1}'"
    flow = "display:flex;flex-wrap:wrap;gap:8px 12px;margin:6px 0"
    return (
        "<div class='paint-canvas' style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>"
        f"<div style='{flow}'>{pair}</div><p style='margin:6px 0 0'>What could be painted after each step:</p>"
        f"<div class='paint-strip' style='{flow}'>{row}</div>"
        f"<p class='paint-figures' {data} style='margin:6px 0'>{escape(canvas_alt(canvas))}</p></div>"
    )


def _figure(
    picture: np.ndarray, words: str, side: int, kind: str, ours: bool = False, now: bool = False
) -> str:  # fmt: skip
    frame = f"3px {'solid ' + OURS if ours else 'dashed ' + THEIRS}"
    mark = " aria-current='step'" if now else ""
    size = (
        f"width:{side}px;height:{side}px;max-width:100%;box-sizing:border-box;display:block;image-rendering:pixelated"
    )
    weight = "bold" if now else "normal"
    return (
        f"<figure class='{kind}'{mark} style='margin:0'><img src='{uri(picture)}' alt='{escape(words, quote=True)}' "
        f"style='{size};border:{frame}'><figcaption style='text-align:center;font-weight:{weight}'>{escape(words)}"
        "</figcaption></figure>"
    )


def painters_html(rows: Sequence[Mapping[str, object]], chosen: str, refused: Mapping[str, str]) -> str:
    """A table with a row for each attack, the chosen one marked; refused: attacks that may not run, and why.

    rows: attack, psnr (dB, infinite: equal), ssim, fit_seconds, seconds of the finished picture.
    """
    names = ("PSNR", "SSIM", "CPU-s to fit", "CPU-s a picture")
    head = "".join(f"<th scope='col' {CELL}>{name}</th>" for name in names)
    body = ""
    for row in rows:
        cells = (level(float(str(row["psnr"]))), f"{row['ssim']:.3f}", f"{row['fit_seconds']:.1f}",
                 f"{row['seconds']:.2f}")  # fmt: skip
        body += table_row(str(row["attack"]), chosen, "".join(f"<td {CELL}>{cell}</td>" for cell in cells))
    for attack, why in refused.items():
        body += table_row(attack, chosen, f"<td colspan='4' style='text-align:left;padding:2px 8px'>{escape(why)}</td>")
    return (
        "<div class='arena-scroll' style='overflow-x:auto;width:0;min-width:100%'><table class='paint-table' "
        "style='border-collapse:collapse;margin:6px 0'><caption style='text-align:left'>The finished picture as each "
        "attack paints it. MeanPicture looks at nothing: what is no better has read nothing.</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def canvas_png(canvas: Canvas) -> bytes:
    """The strip up to this step beside the learner's picture, or the sentence, as PNG bytes."""
    from .paint import canvas as sheet_of
    from .paint import png, text

    strip = canvas.strip
    if strip is not None and strip.psnr is not None:
        until = slice(None, canvas.step + 1)
        cut = replace(strip, pictures=strip.pictures[until], calls=strip.calls[until], psnr=strip.psnr[until])
        return painted_png([cut])
    lines = textwrap.wrap(canvas_alt(canvas), WIDTH // 7)
    sheet, pen = sheet_of(WIDTH, 18 * len(lines) + 16)
    for k, words in enumerate(lines):
        text(pen, 8, 16 + 18 * k, words, INK, 12, "lm")
    return png(sheet)
