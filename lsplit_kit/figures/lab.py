"""What QuantLab shows, as HTML with SVG, as PNG and in words: a codec tried on captured tensors, a picture, a text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from .picture import CELL, figure_html
from .plane import plane_alt, plane_sketch
from .quantization import channels_alt, channels_sketch, levels_alt, levels_sketch
from .sketch import Sketch
from .style import INK, PAPER

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from ..measure.rate import RatePoint

SIDE, ROW = 192, "display:flex;flex-wrap:wrap;gap:8px 16px;align-items:flex-start"
FIRST = "The levels are those of a first step; at later steps only the difference from the prediction is rounded."


@dataclass(frozen=True)
class Tried:
    """Codecs tried on captured tensors: a row for each, which one is in force, and what to draw of the tensors.

    values: a tensor for the histogram, or None; hidden: one for the chart of channels, or None; about: what they are.
    """

    rows: tuple[RatePoint, ...] = ()
    now: str = ""
    values: Tensor | None = None
    hidden: Tensor | None = None
    about: str = ""

    @property
    def point(self) -> RatePoint | None:
        """The row of the codec in force."""
        return next((row for row in self.rows if row["codec"] == self.now), None)


def tried_alt(tried: Tried) -> str:
    """One sentence about the codec in force; empty before anything was captured."""
    row = tried.point
    if row is None:
        return ""
    cost = f"{row['codec']}: {row['bits']:.2f} bits a value"
    if row["snr_db"] == math.inf:
        return f"{cost}, without an error."
    return (
        f"{cost} at {row['snr_db']:.1f} dB signal to noise; Gaussian values would need {row['shannon']:.2f} bits "
        "(Shannon)."
    )


def sketches(tried: Tried) -> list[tuple[Sketch, str, str]]:
    """The charts as (sketch, its sentence, its class)."""
    found = [(plane_sketch(tried.rows, tried.now), plane_alt(tried.rows), "quant-plane")] if tried.rows else []
    if tried.values is not None:
        levels = levels_sketch(tried.values, tried.now), levels_alt(tried.values, tried.now)
        found.append((*levels, "quant-levels"))
    if tried.hidden is not None:
        found.append((channels_sketch(tried.hidden), channels_alt(tried.hidden), "quant-channels"))
    return found


def tried_html(tried: Tried) -> str:
    """The charts side by side and the sentence below, in the page's own text colour."""
    charts = "".join(sketch.svg(alt, name) for sketch, alt, name in sketches(tried))
    row = tried.point
    data = f" data-bits='{row['bits']:.4f}' data-snr='{row['snr_db']:.3f}'" if row else ""
    note = f" {FIRST}" if "+delta" in tried.now and tried.values is not None else ""
    return (
        "<div style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>"
        f"<p class='quant-point'{data} style='margin:6px 0'><b>{escape(tried_alt(tried))}</b> {escape(tried.about)}"
        f"{note}</p><div style='{ROW}'>{charts}</div></div>"
    )


@dataclass(frozen=True)
class Coded:
    """A picture made through a codec beside the same without: settings, pictures, their difference, and the bytes.

    apart: the difference, drawn up to `largest` (0 to 1); quality: one row of picture_quality, or why there is none.
    """

    prompt: str = ""
    seed: int = 0
    steps: int = 0
    guidance_scale: float = 0.0
    codec: str = ""
    whole: Image | None = None
    ours: Image | None = None
    apart: Image | None = None
    largest: float = 0.0
    quality: Mapping[str, float] | str = ""
    payload: int = 0
    bits: float = math.nan


def coded_alt(seen: Coded) -> str:
    """One sentence that says what the pictures show, in round numbers."""
    if seen.ours is None:
        return "No picture yet."
    steps = f"{seen.steps} step{'s' if seen.steps != 1 else ''}"
    words = f'"{" ".join(seen.prompt.split())}" (seed {seen.seed}, {steps}, guidance scale {seen.guidance_scale:g})'
    return (
        f"{words} with {seen.codec}: {_apart(seen, 0, 2)}; {seen.payload:,} payload bytes of noise came down, "
        f"{seen.bits:.1f} bits a value."
    )


def _apart(seen: Coded, decibels: int, places: int) -> str:
    if isinstance(seen.quality, str):
        return seen.quality
    if seen.quality["psnr"] == math.inf:
        return "equal to the original in every pixel"
    return f"PSNR {seen.quality['psnr']:.{decibels}f} dB, SSIM {seen.quality['ssim']:.{places}f}"


def coded_html(seen: Coded) -> str:
    """Original, coded picture and difference with captions, and the numbers."""
    largest = f"white is {round(255 * seen.largest)} of 255" if seen.ours is not None else "not made yet"
    shown = "".join(
        figure_html(name, image, words, seen.prompt, SIDE)
        for name, image, words in (
            ("Original", seen.whole, "no codec" if seen.whole is not None else "not made yet"),
            ("Coded", seen.ours, seen.codec if seen.ours is not None else "not made yet"),
            ("Difference", seen.apart, largest),
        )
    )
    said = ""
    if seen.ours is not None:
        said = (
            f"<p class='quant-quality' style='margin:6px 0'>With {escape(seen.codec)}: {escape(_apart(seen, 1, 3))}. "
            f"<b data-value='{seen.payload}'>{seen.payload:,}</b> payload bytes of noise came down in {seen.steps} "
            f"step{'s' if seen.steps != 1 else ''}, {seen.bits:.2f} bits a value.</p>"
        )
    return (
        "<div class='quant-pictures' style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>"
        f"<div style='{ROW}'>{shown}</div>{said}</div>"
    )


@dataclass(frozen=True)
class Reading:
    """A sentence read through a codec: settings, payload bytes, one row of text_quality, and what is said next.

    bits: a value, of both directions; next_whole, next_split: the greedy continuation without and with the codec.
    """

    sentence: str = ""
    tokens: int = 0
    plan: str = ""
    codec: str = ""
    up: int = 0
    down: int = 0
    bits: tuple[float, float] = (math.nan, math.nan)
    quality: Mapping[str, float] | None = None
    next_whole: str = ""
    next_split: str = ""


def reading_alt(seen: Reading) -> str:
    """One sentence that says what came of the reading, in round numbers."""
    if seen.quality is None:
        return "No sentence read yet."
    words = textwrap.shorten(" ".join(seen.sentence.split()), 60, placeholder=" ...")
    same = seen.next_whole == seen.next_split
    goes = f'goes on as without: "{_one_line(seen.next_whole)}"' if same else (
        f'goes on "{_one_line(seen.next_split)}" instead of "{_one_line(seen.next_whole)}"'
    )  # fmt: skip
    return (
        f'"{words}" ({seen.tokens} tokens, {seen.plan}) with {seen.codec}: {seen.up:,} payload bytes up and '
        f"{seen.down:,} down, {seen.bits[0]:.1f} bits a value; perplexity x {seen.quality['ratio']:.2f}, KL "
        f"{seen.quality['kl']:.2f} nats a token, top-1 agreement {seen.quality['top1']:.0%}; it {goes}."
    )


def _one_line(words: str) -> str:
    return " ".join(words.split())


def reading_html(seen: Reading) -> str:
    """The numbers as a table, and the two continuations; every number's exact value is in `data-value`."""
    if seen.quality is None:
        return ""
    rows: list[tuple[str, Any, str]] = [
        ("Payload up", seen.up, f"{seen.up:,} bytes, {seen.bits[0]:.2f} bits a value"),
        ("Payload down", seen.down, f"{seen.down:,} bytes, {seen.bits[1]:.2f} bits a value"),
        ("Perplexity ratio", seen.quality["ratio"], f"{seen.quality['ratio']:.3f}"),
        ("KL, nats a token", seen.quality["kl"], f"{seen.quality['kl']:.4f}"),
        ("Top-1 agreement", seen.quality["top1"], f"{seen.quality['top1']:.1%}"),
    ]
    table = "".join(
        f"<tr><th scope='row' style='text-align:left'>{name}</th><td data-value='{value}' {CELL}>{words}</td></tr>"
        for name, value, words in rows
    )
    said = "".join(
        f"<div><b>{name}</b><pre class='quant-{mark}' style='white-space:pre-wrap;margin:2px 0 6px'>"
        f"{escape(words)}</pre></div>"
        for name, mark, words in (
            ("It goes on, without the codec:", "without", seen.next_whole),
            (f"With {escape(seen.codec)}:", "with", seen.next_split),
        )
    )
    head = f"{seen.tokens} tokens, {escape(seen.plan)}, {escape(seen.codec)} up and down"
    return (
        "<div class='quant-reading' style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>"
        f"<p style='margin:6px 0'>{head}.</p><table style='border-collapse:collapse'><tbody>{table}</tbody></table>"
        f"{said}</div>"
    )


def lab_png(tried: Tried, seen: Coded | Reading) -> bytes:
    """A tab as PNG bytes: the pictures or the sentences, and below them the charts."""
    from PIL import Image, ImageDraw

    from .paint import SCALE, enlarged, png, text

    charts = [sketch for sketch, _, _ in sketches(tried)]
    width = max(sum(c.width + 16 for c in charts) + 8, 3 * (SIDE + 16) + 8)
    pictures = isinstance(seen, Coded) and seen.ours is not None
    said = textwrap.wrap(coded_alt(seen) if isinstance(seen, Coded) else reading_alt(seen), width // 7)
    said += textwrap.wrap(tried_alt(tried), width // 7)
    head = 12 + (SIDE + 26 if pictures else 0) + 18 * len(said)
    tall = head + 16 + max((c.height for c in charts), default=0)
    sheet = Image.new("RGB", (width * SCALE, tall * SCALE), PAPER)
    pen, y = ImageDraw.Draw(sheet), 12
    if isinstance(seen, Coded) and pictures:
        for k, (name, image) in enumerate((("original", seen.whole), (seen.codec, seen.ours),
                                           ("difference", seen.apart))):  # fmt: skip
            left = 8 + k * (SIDE + 16)
            sheet.paste(enlarged(image, SIDE * SCALE), (left * SCALE, y * SCALE))
            text(pen, left, y + SIDE + 8, name, INK, 12, "lm")
        y += SIDE + 26
    for line in said:
        text(pen, 8, y + 6, line, INK, 12, "lm")
        y += 18
    x = 8
    for chart in charts:
        chart.paint(sheet, pen, x, y + 8)
        x += chart.width + 16
    return png(sheet, colours=256)
