"""Pictures in a row with a caption each, as one PNG; side by side is how people compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .show import Shown, show
from .style import INK

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, GAP, LINE = 112, 14, 18  # units: a picture, the space between two, a line of its caption


def strip_png(pictures: Mapping[str, Image], side: int = SIDE) -> bytes:
    """The row as PNG bytes; a caption may have several lines, and small pictures keep their pixels."""
    from .paint import SCALE, canvas, enlarged, png, text

    lines = max((caption.count("\n") + 1 for caption in pictures), default=1)
    sheet, pen = canvas(len(pictures) * (side + GAP) + GAP, side + 2 * GAP + lines * LINE)
    for i, (caption, image) in enumerate(pictures.items()):
        left = GAP + i * (side + GAP)
        large = enlarged(image, side * SCALE)
        sheet.paste(large, (left * SCALE + (side * SCALE - large.width) // 2, GAP * SCALE))
        text(pen, left + side / 2, side + GAP + 6, caption, INK, size=12, anchor="ma")
    return png(sheet)


def strip(pictures: Mapping[str, Image], alt: str, side: int = SIDE) -> Shown:
    """The row as a cell's last value: a PNG and the sentence `alt`; raises ValueError without pictures or sentence.

    pictures: PIL images by caption, in order; side: of each, in units of the page.
    """
    if not pictures:
        raise ValueError("A strip needs at least one picture.")
    return show(None, strip_png(pictures, side), alt)
