"""Small Pillow helpers for the PNG twins: hatched boxes, a font, and PNG bytes with nothing random in them."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .style import PAPER

SCALE = 2  # pixels per unit, so that text stays sharp on screens with many pixels


def canvas(width: int, height: int) -> tuple[Any, Any]:
    """A sheet of paper of width x height units and its pen; coordinates are units times SCALE."""
    image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    return image, ImageDraw.Draw(image)


@lru_cache(maxsize=8)
def font(size: int) -> Any:
    """Pillow's own font, so that pictures do not depend on the fonts of a machine."""
    return ImageFont.load_default(size * SCALE)


def text(pen: Any, x: float, y: float, words: str, colour: str, size: int = 13, anchor: str = "mm") -> None:
    """Write `words` at (x, y) units; anchor as in Pillow."""
    pen.multiline_text((x * SCALE, y * SCALE), words, fill=colour, font=font(size), anchor=anchor, align="center")


def box(image: Any, left: float, top: float, right: float, bottom: float, colour: str, pattern: str = "") -> None:
    """A filled box with the hatch that plotly calls "/", "." or "\\\\"."""
    width, height = round((right - left) * SCALE), round((bottom - top) * SCALE)
    tile = Image.new("RGB", (width, height), colour)
    pen = ImageDraw.Draw(tile)
    step = 6 * SCALE
    if pattern == ".":
        for y in range(step // 2, height, step):
            for x in range(step // 2, width, step):
                pen.ellipse([x - SCALE, y - SCALE, x + SCALE, y + SCALE], fill="white")
    elif pattern:
        for start in range(-height, width + height, step):
            run = height if pattern == "\\" else -height
            pen.line([start, 0, start + run, height], fill="white", width=SCALE)
    image.paste(tile, (round(left * SCALE), round(top * SCALE)))


def enlarged(image: Any, side: int) -> Any:
    """A picture whose longer side is made `side` pixels; small ones keep square pixels, large ones are averaged."""
    ratio = side / max(image.size)
    size = (max(round(image.width * ratio), 1), max(round(image.height * ratio), 1))
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if ratio >= 1 else Image.Resampling.LANCZOS)


def png(image: Any, small: bool = False, colours: int = 0) -> bytes:
    """The image as PNG bytes; `small` has one pixel for each unit, for pages that show every pixel.

    colours: how many are kept of a drawing that has few, which makes it much smaller; 0 keeps all.
    """
    if small:
        image = image.resize((image.width // SCALE, image.height // SCALE), Image.Resampling.LANCZOS)
    if colours:
        image = image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def shown_at(picture: bytes) -> dict[str, int]:
    """Width and height in units, for a display's metadata; without them a page shows SCALE times as much."""
    width, height = Image.open(io.BytesIO(picture)).size
    return {"width": width // SCALE, "height": height // SCALE}
