"""A small chart drawn once and written twice: as SVG in a page's own text colour, and as PNG by Pillow.

Coordinates are units, of which a page has one to a pixel; y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from .style import INK

FONT = 12  # units: the size of all words
CORNERS = {  # of the marks, in radii
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "diamond": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
    "triangle-up": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
    "triangle-down": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
    "star": tuple(
        ((1.5 if k % 2 == 0 else 0.65) * math.sin(k * math.pi / 5),
         -(1.5 if k % 2 == 0 else 0.65) * math.cos(k * math.pi / 5)) for k in range(10)
    ),
    "circle": tuple((math.cos(k * math.pi / 12), math.sin(k * math.pi / 12)) for k in range(24)),
}  # fmt: skip


class Shape(NamedTuple):
    """One piece: its kind, its corners or ends, colour ("" is the page's text), and what it says when pointed at."""

    kind: str  # "line", "area" or "text"
    points: Sequence[tuple[float, float]]
    colour: str = ""
    words: str = ""
    said: str = ""
    dashed: bool = False
    width: float = 1.0
    anchor: str = "start"


class Sketch:
    """A sheet of width x height units on which lines, areas, marks and words are put."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.shapes: list[Shape] = []

    def line(self, x: float, y: float, x2: float, y2: float, colour: str = "", **look: Any) -> None:
        """A straight line; dashed=, width= and said= as in Shape."""
        self.shapes.append(Shape("line", [(x, y), (x2, y2)], colour, **look))

    def box(self, left: float, top: float, right: float, bottom: float, colour: str = "", said: str = "") -> None:
        """A filled rectangle."""
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.shapes.append(Shape("area", corners, colour, said=said))

    def mark(self, x: float, y: float, shape: str, colour: str, radius: float = 4.5, said: str = "") -> None:
        """A small filled sign, one of CORNERS."""
        corners = [(x + radius * dx, y + radius * dy) for dx, dy in CORNERS[shape]]
        self.shapes.append(Shape("area", corners, colour, said=said))

    def ring(self, x: float, y: float, radius: float) -> None:
        """An empty circle."""
        around = [(x + radius * dx, y + radius * dy) for dx, dy in CORNERS["circle"]]
        self.shapes.append(Shape("line", [*around, around[0]], width=2.0))

    def text(self, x: float, y: float, words: str, anchor: str = "start") -> None:
        """A line of words whose baseline is at y; anchor: start, middle or end."""
        self.shapes.append(Shape("text", [(x, y)], words=words, anchor=anchor))

    def svg(self, alt: str, name: str = "") -> str:
        """Inline SVG that shrinks with a narrow page; `name` is its class."""
        drawn = "".join(map(_element, self.shapes))
        return (
            f"<svg class='{name}' role='img' aria-label='{escape(alt, quote=True)}' fill='currentColor' "
            f"viewBox='0 0 {self.width} {self.height}' width='{self.width}' style='display:block;max-width:100%;"
            f"height:auto;font:{FONT}px var(--jp-ui-font-family,sans-serif)'>{drawn}</svg>"
        )

    def paint(self, image: Any, pen: Any, left: float = 0, top: float = 0) -> None:
        """The same on a sheet of Pillow's, its upper left corner at (left, top) units."""
        from .paint import SCALE, text

        for shape in self.shapes:
            points = [((x + left) * SCALE, (y + top) * SCALE) for x, y in shape.points]
            colour = shape.colour or INK
            if shape.kind == "text":
                (x, y), place = shape.points[0], {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
                text(pen, x + left, y + top, shape.words, INK, FONT, place)
            elif shape.kind == "area":
                pen.polygon(points, fill=colour)
            else:
                for piece in _dashes(points) if shape.dashed else [points]:
                    pen.line(piece, fill=colour, width=max(round(shape.width * SCALE), 1))

    def png(self, small: bool = False) -> bytes:
        """PNG bytes; `small` has one pixel a unit."""
        from .paint import canvas, png

        image, pen = canvas(self.width, self.height)
        self.paint(image, pen)
        return png(image, small, colours=128)


def _element(shape: Shape) -> str:
    title = f"<title>{escape(shape.said)}</title>" if shape.said else ""
    if shape.kind == "text":
        x, y = shape.points[0]
        return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{shape.anchor}'>{escape(shape.words)}</text>"
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in shape.points)
    colour = shape.colour or "currentColor"
    if shape.kind == "area":
        return f"<path d='M{path}Z' fill='{colour}'>{title}</path>"
    dash = " stroke-dasharray='5 5'" if shape.dashed else ""
    return f"<path d='M{path}' stroke='{colour}' stroke-width='{shape.width}' fill='none'{dash}>{title}</path>"


def _dashes(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Every second piece of a line through these points, the pieces equally long."""
    lengths = [math.dist(a, b) for a, b in zip(points, points[1:], strict=False)]
    count = max(int(sum(lengths) / 10), 1)
    at, leg, gone = [], 0, 0.0
    for k in range(count + 1):
        far = sum(lengths) * k / count
        while leg < len(lengths) - 1 and far > gone + lengths[leg]:
            gone, leg = gone + lengths[leg], leg + 1
        (x, y), (x2, y2), part = points[leg], points[leg + 1], (far - gone) / (lengths[leg] or 1.0)
        at.append((x + (x2 - x) * part, y + (y2 - y) * part))
    return [[a, b] for a, b in zip(at[::2], at[1::2], strict=False)]
