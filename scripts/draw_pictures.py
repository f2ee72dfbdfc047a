"""Draw docs/img/split.png and denoiser.png: where the parts run, what crosses, and who sees it.

python scripts/draw_pictures.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

OUT = Path(__file__).resolve().parent.parent / "docs" / "img"
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


def stage() -> Board:
    """The two machines, 880 x 470 README pixels; the paper is white, so that it reads on a dark page too."""
    board = Board(880, 470)
    board.box(20, 264, 840, 192, PALE_BLUE, BLUE)
    board.text(440, 436, "local side: your machine", 20, BLUE)
    board.box(216, 14, 448, 134, PALE_ORANGE, ORANGE, dashed=True)
    board.text(440, 38, "host: another process or machine", 20, "#8a5a00")
    board.box(256, 60, 368, 72, PAPER, ORANGE)
    board.arrow([(296, 296), (296, 132)], GREEN)
    board.arrow([(584, 132), (584, 296)], GREEN)
    return board


def parts(board: Board, at: tuple[tuple[int, int, str], ...]) -> None:
    """The local side's parts as (x, width, words)."""
    for x, w, said in at:
        board.box(x, 296, w, 96, PAPER, BLUE)
        board.text(x + w // 2, 344, said, 19)


def split() -> Image.Image:
    """A language model in three."""
    board = stage()
    board.text(440, 96, "body\nthe decoder layers in between", 19)
    parts(board, ((36, 98, "prompt"), (166, 182, "head\nembedding and\nfirst layers"),
                  (532, 182, "tail\nlast layers, norm\nand LM head"), (746, 98, "next\ntoken")))  # fmt: skip
    board.arrow([(134, 344), (166, 344)], INK)
    board.arrow([(714, 344), (746, 344)], INK)
    board.text(184, 206, "up: one hidden vector\nper position", 18, "#00664c")
    board.text(706, 206, "down: one hidden vector\nper position", 18, "#00664c")
    board.text(
        440,
        206,
        "observers: the host, and who\nwatches the link. With the head's\n"
        "public weights they can read the\nprompt from what goes up.",
        16,
        RED,
    )
    board.arrow([(795, 392), (795, 410), (85, 410), (85, 392)], INK)
    return board.image


def denoiser() -> Image.Image:
    """A diffusion pipeline whose denoiser is elsewhere."""
    board = stage()
    board.text(440, 96, "denoiser\nU-Net or transformer", 19)
    parts(board, ((32, 84, "prompt"), (142, 108, "text\nencoder"),
                  (276, 328, "latent and\nscheduler: one\nstep at a time"),
                  (630, 108, "auto-\nencoder"), (764, 84, "picture")))  # fmt: skip
    for x in (116, 250, 604, 738):
        board.arrow([(x, 344), (x + 26, 344)], INK)
    board.text(150, 206, "up: text embeddings once,\nthe latent at every step\n(in lockstep once)", 18, "#00664c")
    board.text(730, 206, "down: the predicted\nnoise at every step", 18, "#00664c")
    board.text(
        440,
        206,
        "observers: the host, and who\nwatches the link. From latent\nand noise they can compute\nthe picture.",
        16,
        RED,
    )
    return board.image


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for draw in (split, denoiser):
        draw().quantize(64).save(OUT / f"{draw.__name__}.png", optimize=True)
        print(f"{draw.__name__}.png: {(OUT / f'{draw.__name__}.png').stat().st_size:,} bytes")
