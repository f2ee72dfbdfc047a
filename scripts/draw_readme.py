"""Draw docs/img/split.png: where the three parts run, what crosses, and who sees it.

python scripts/draw_readme.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

OUT = Path(__file__).resolve().parent.parent / "docs" / "img" / "split.png"
SCALE = 2  # drawn at twice the size a README shows
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#B04A00"  # Okabe-Ito, the last darker: it is text
INK, PAPER, PALE_BLUE, PALE_ORANGE = "#1a1a1a", "#ffffff", "#e3f0f8", "#fdf1d8"


class Board:
    """A canvas with the few shapes that the picture needs; coordinates in README pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def box(self, x: int, y: int, w: int, h: int, fill: str, line: str, dashed: bool = False) -> None:
        """A rounded rectangle; a dashed border is the second cue beside the colour."""
        s = SCALE
        self.draw.rounded_rectangle(
            (x * s, y * s, (x + w) * s, (y + h) * s), 10 * s, fill, None if dashed else line, 2 * s
        )
        if dashed:
            for start in range(x + 8, x + w - 8, 12):
                for edge in (y, y + h):
                    self.draw.line((start * s, edge * s, (start + 7) * s, edge * s), line, 2 * s)
            for start in range(y + 8, y + h - 8, 12):
                for edge in (x, x + w):
                    self.draw.line((edge * s, start * s, edge * s, (start + 7) * s), line, 2 * s)

    def text(self, x: int, y: int, said: str, size: int = 15, fill: str = INK) -> None:
        """Text centred on (x, y); Pillow's own font, so that the picture is the same everywhere."""
        font = ImageFont.load_default(size * SCALE)
        self.draw.multiline_text((x * SCALE, y * SCALE), said, fill, font, "mm", 5 * SCALE, "center")

    def arrow(self, points: list[tuple[int, int]], fill: str) -> None:
        """A line through the points; its last leg, straight along one axis, ends in a head."""
        line = [(x * SCALE, y * SCALE) for x, y in points]
        (ax, ay), (bx, by) = line[-2:]
        dx, dy = (bx > ax) - (bx < ax), (by > ay) - (by < ay)
        h = 9 * SCALE
        self.draw.line([*line[:-1], (bx - dx * h, by - dy * h)], fill, 3 * SCALE, "curve")
        left, right = (
            (bx - dx * h - dy * h // 2, by - dy * h - dx * h // 2),
            (bx - dx * h + dy * h // 2, by - dy * h + dx * h // 2),
        )
        self.draw.polygon([(bx, by), left, right], fill)


def picture() -> Image.Image:
    """The whole picture, 880 x 400 README pixels."""
    board = Board(880, 400)
    board.box(20, 210, 840, 176, PALE_BLUE, BLUE)
    board.text(440, 366, "local side: your machine", 16, BLUE)
    board.box(230, 14, 420, 118, PALE_ORANGE, ORANGE, dashed=True)
    board.text(440, 34, "host: another process or machine", 16, "#8a5a00")
    board.box(270, 54, 340, 60, PAPER, ORANGE)
    board.text(440, 84, "body\nthe decoder layers in between", 15)
    for x, w, said in ((40, 92, "prompt"), (168, 170, "head\nembedding and\nfirst layers"),
                       (542, 170, "tail\nlast layers, norm\nand LM head"), (748, 92, "next\ntoken")):  # fmt: skip
        board.box(x, 246, w, 84, PAPER, BLUE)
        board.text(x + w // 2, 288, said, 15)
    board.arrow([(132, 288), (168, 288)], INK)
    board.arrow([(712, 288), (748, 288)], INK)
    board.arrow([(304, 246), (304, 114)], GREEN)
    board.arrow([(576, 114), (576, 246)], GREEN)
    board.text(218, 170, "up: one hidden vector\nper new token", 14, "#00664c")
    board.text(664, 170, "down: one hidden vector\nper new token", 14, "#00664c")
    board.text(
        440,
        172,
        "observers: the host, and\nwhoever watches the link. With\n"
        "public weights they can read\nthe prompt out of both.",
        13,
        RED,
    )
    board.arrow([(794, 330), (794, 346), (86, 346), (86, 330)], INK)
    return board.image


if __name__ == "__main__":
    OUT.parent.mkdir(parents=True, exist_ok=True)
    picture().quantize(64).save(OUT, optimize=True)
    print(f"{OUT.name}: {OUT.stat().st_size:,} bytes")
