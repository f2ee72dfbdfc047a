"""Two pictures side by side, unsplit and split, and the bytes of every step under them: as HTML with SVG, and as PNG.

Up is blue and hatched, down is orange and plain, so that nobody needs the colours.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from .style import BODY, HEAD, INK, PAPER

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

UP, DOWN = HEAD, BODY
SIDE, LARGEST = 256, 512  # units that a picture takes on the page, pixels that it is sent with at most
FLOOR, TALL, HEIGHT = 142, 118, 164  # of the chart, in units: the bars' feet, the longest bar, all of it
MEASURES = {"psnr": "PSNR {:.1f} dB", "ssim": "SSIM {:.3f}", "vif": "VIF {:.3f}", "delta_e": "colour difference {:.1f}"}
CELL = "style='text-align:right;padding:2px 12px'"
HATCH = (
    "<pattern id='lsplit-hatch' width='6' height='6' patternUnits='userSpaceOnUse'>"
    f"<rect width='6' height='6' fill='{UP}'/>"
    "<path d='M-1 1l2-2M0 6l6-6M5 7l2-2' stroke='#fff' stroke-width='1.5'/></pattern>"
)


@dataclass(frozen=True)
class Choice:
    """The settings of one run; as text, all of them in words."""

    prompt: str
    seed: int
    steps: int
    guidance_scale: float
    cut: str | int
    mode: str
    codec: str

    def __str__(self) -> str:
        return (
            f'"{" ".join(self.prompt.split())}" (seed {self.seed}, {self.steps} step{"s" if self.steps != 1 else ""}, '
            f"guidance scale {self.guidance_scale:g}; cut {cut_name(self.cut)}, {self.mode}, {self.codec} down)"
        )


def cut_name(cut: str | int) -> str:
    """What a menu calls the cut at the "denoiser", or the one with so many blocks local at either end."""
    return "at the denoiser" if cut == "denoiser" else f"inside, {cut}{f' + {cut}' if cut else ''} blocks local"


@dataclass(frozen=True)
class Seen:
    """What there is to see of one run: its settings, both pictures, `bytes_by_step`, and one row of picture_quality.

    progress: what each picture shows.
    """

    choice: Choice | None = None
    whole: Image | None = None
    ours: Image | None = None
    progress: tuple[str, str] = ("not made yet", "not made yet")
    table: pd.DataFrame | None = None
    quality: Mapping[str, float] | None = None

    @property
    def sent(self) -> str:
        """What comes down."""
        return "noise" if self.choice is None or self.choice.cut == "denoiser" else "hidden tensors"


def bytes_by_step(ledger: pd.DataFrame) -> pd.DataFrame:
    """Payload bytes `up` and `down` for every step of a tap's ledger, and what `down` would be as FP32 values."""
    import pandas as pd

    rows = ledger[ledger["step"] > 0]
    fp32 = rows["shape"].map(lambda shape: 4 * math.prod(shape)).where(rows["direction"] == "down", 0)
    columns = {d: rows["payload"].where(rows["direction"] == d, 0) for d in ("up", "down")} | {"fp32": fp32}
    return pd.DataFrame(columns).groupby(rows["step"].to_numpy()).sum().astype(int).rename_axis("step")


def saving(table: pd.DataFrame) -> float:
    """The share of all payload bytes that is saved against the same run with FP32 values coming down."""
    full = int(table["up"].sum() + table["fp32"].sum())
    return 1 - int(table["up"].sum() + table["down"].sum()) / full if full else 0.0


def compared(seen: Seen) -> str:
    """How far the pictures are apart, in words; empty without `quality`."""
    if seen.quality is None:
        return ""
    if seen.quality["psnr"] == math.inf:
        return "equal in every pixel"
    return ", ".join(words.format(seen.quality[name]) for name, words in MEASURES.items())


def picture_alt(seen: Seen) -> str:
    """One sentence that says what there is to see, in numbers."""
    if seen.table is None or seen.table.empty:
        return f"No split picture yet{f': {seen.choice}' if seen.choice else ''}."
    up, down = (int(seen.table[way].sum()) for way in ("up", "down"))
    apart = compared(seen) or f"not compared, the split one is at {seen.progress[1]}"
    return (
        f"Split and unsplit picture of {seen.choice}: {apart}; {up:,} payload bytes went up, "
        f"{int(seen.table['up'].iloc[0]):,} of them at the first step, and {down:,} came down, {_against(seen)}."
    )


def _against(seen: Seen) -> str:
    assert seen.table is not None
    share = saving(seen.table)
    if not share:
        return f"together as many as with FP32 {seen.sent}"
    return f"together {abs(share):.1%} {'less' if share > 0 else 'more'} than with FP32 {seen.sent}"


def picture_html(seen: Seen) -> str:
    """Both pictures with captions, the chart and the table, in the page's own text colour."""
    words = compared(seen)
    names = (("Unsplit", seen.whole, seen.progress[0]), ("Split", seen.ours, seen.progress[1]))
    pair = "".join(figure_html(name, image, at, seen.choice.prompt if seen.choice else "") for name, image, at in names)
    said = f"<p class='lsplit-quality' style='margin:6px 0'>The split picture beside the unsplit one: {words}.</p>"
    below = "" if seen.table is None or seen.table.empty else picture_svg(seen.table) + bytes_html(seen)
    return (
        "<div class='lsplit-pictures' style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>"
        f"<div style='display:flex;flex-wrap:wrap;gap:16px'>{pair}</div>{said if words else ''}{below}</div>"
    )


def figure_html(name: str, image: Image | None, progress: str, prompt: str, side: int = SIDE) -> str:
    """One picture `side` units wide, or the place for it, with its caption and an alternative text."""
    size = f"width:{side}px;height:{side}px;max-width:100%;box-sizing:border-box"
    if image is None:
        shown = f"<div style='{size};border:1px dashed currentColor'></div>"
    else:
        alt = escape(f'{name} picture of "{prompt}", {progress}', quote=True)
        data = base64.b64encode(_png(image)).decode("ascii")
        size += ";display:block;object-fit:contain" + (";image-rendering:pixelated" if max(image.size) < side else "")
        shown = f"<img src='data:image/png;base64,{data}' alt='{alt}' style='{size}'>"
    caption = f"<figcaption style='margin-top:4px'><b>{name}</b>, {escape(progress)}</figcaption>"
    return f"<figure class='lsplit-{name.lower()}' style='margin:0'>{shown}{caption}</figure>"


def _png(image: Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((LARGEST, LARGEST))
    out = io.BytesIO()
    small.save(out, "PNG")
    return out.getvalue()


def _wide(steps: int) -> int:
    """Units across the chart: a bar is not wider than it must be."""
    return min(2 * SIDE + 16, 160 + 64 * steps)


def _labels(table: pd.DataFrame) -> list[tuple[int, str, str]]:
    """Height of the bars below, place and words of the two numbers in the chart: the first step and the last."""
    top = max(int(table[["up", "down"]].to_numpy().max()), 1)
    found = []
    for row, place in ((0, "start"), (len(table) - 1, "end"))[: len(table)]:
        up, down = int(table["up"].iloc[row]), int(table["down"].iloc[row])
        found.append((round(TALL * max(up, down) / top), place, f"{up:,} B up, {down:,} B down"))
    if len(found) == 2 and abs(found[0][0] - found[1][0]) < 16:  # as tall as each other: the two would meet
        found.pop()
    return found


def picture_svg(table: pd.DataFrame) -> str:
    """The chart of `bytes_by_step` as inline SVG: two bars a step, up hatched and down plain."""
    top, slot = max(int(table[["up", "down"]].to_numpy().max()), 1), 100 / len(table)
    drawn = []
    for i, (step, up, down) in enumerate(table[["up", "down"]].itertuples()):
        for way, number, at in (("up", up, 0.08), ("down", down, 0.52)):
            tall = max(TALL * number / top, 1 if number else 0)
            fill = f"url(#lsplit-hatch) {UP}" if way == "up" else DOWN
            drawn.append(
                f"<rect class='lsplit-{way}' x='{(i + at) * slot:.3f}%' width='{0.4 * slot:.3f}%' "
                f"y='{FLOOR - tall:.1f}' height='{tall:.1f}' fill='{fill}' stroke='currentColor' stroke-width='0.5'>"
                f"<title>step {step}: {number:,} bytes {way}</title></rect>"
            )
    ends = {"start": "0%", "end": "100%"}
    for tall, place, words in _labels(table):
        drawn.append(f"<text x='{ends[place]}' y='{FLOOR - tall - 5}' text-anchor='{place}'>{words}</text>")
    for place, step in list(zip(ends, (table.index[0], table.index[-1]), strict=True))[: len(table)]:
        drawn.append(f"<text x='{ends[place]}' y='{HEIGHT - 6}' text-anchor='{place}'>step {step}</text>")
    up, down = (int(table[way].sum()) for way in ("up", "down"))
    alt = f"Bar chart of payload bytes in {len(table)} steps: {up:,} up, most at the first step, and {down:,} down."
    return (
        f"<svg class='lsplit-bytes' role='img' aria-label='{alt}' height='{HEIGHT}' fill='currentColor' "
        f"style='display:block;margin-top:8px;width:100%;max-width:{_wide(len(table))}px;overflow:visible;"
        f"font:13px var(--jp-ui-font-family,sans-serif)'><defs>{HATCH}</defs>{''.join(drawn)}"
        f"<line x2='100%' y1='{FLOOR}' y2='{FLOOR}' stroke='currentColor'/></svg>{_legend()}"
    )


def _legend() -> str:
    key = "".join(
        f"<svg width='14' height='14' style='margin-right:6px;vertical-align:-2px' aria-hidden='true'>"
        f"<rect width='14' height='14' fill='{fill}' stroke='currentColor' stroke-width='0.5'/></svg>"
        f"<span style='margin-right:18px'>{words}</span>"
        for fill, words in ((f"url(#lsplit-hatch) {UP}", "up (hatched)"), (DOWN, "down (plain)"))
    )
    return f"<div style='margin:2px 0 6px'>{key}payload bytes at each step</div>"


def bytes_html(seen: Seen) -> str:
    """The table under the chart; every number's exact value is in `data-value`."""
    assert seen.table is not None
    first, later = seen.table.iloc[:1], seen.table.iloc[1:]
    lines = [("First step", _cells(first))]
    if len(later):
        lines.append(("Each later step", _cells(later)))
    count = f"{len(seen.table)} step{'s' if len(seen.table) > 1 else ''}"
    lines.append((f"Total, {count}", _cells(seen.table.sum().to_frame().T)))
    lines.append((f"The same with FP32 {seen.sent}", _cells(seen.table.sum().to_frame().T, down="fp32")))
    rows = "".join(f"<tr><th scope='row' style='text-align:left'>{name}</th>{cells}</tr>" for name, cells in lines)
    return (
        f"<table class='lsplit-table' style='border-collapse:collapse'><thead><tr><td></td><th scope='col' {CELL}>"
        f"Bytes up</th><th scope='col' {CELL}>Bytes down</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<p class='lsplit-saving' style='margin:6px 0'>Up and down {_against(seen)}.</p>"
    )


def _cells(rows: pd.DataFrame, down: str = "down") -> str:
    out = []
    for column in ("up", down):
        low, high = int(rows[column].min()), int(rows[column].max())
        words = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        out.append(f"<td data-value='{high}' {CELL}>{words}</td>")
    return "".join(out)


def picture_png(seen: Seen) -> bytes:
    """Both pictures, enlarged without smoothing, and the chart as PNG bytes, drawn without a browser."""
    from PIL import Image, ImageDraw

    from .paint import SCALE, enlarged, png, text

    bare = seen.table is None or seen.table.empty
    width, head = 2 * SIDE + 16 + 24, SIDE + 48
    sheet = Image.new("RGB", (width * SCALE, (head + (0 if bare else HEIGHT + 40)) * SCALE), PAPER)
    pen = ImageDraw.Draw(sheet)
    for left, name, image, at in (
        (12, "Unsplit", seen.whole, seen.progress[0]), (28 + SIDE, "Split", seen.ours, seen.progress[1])
    ):  # fmt: skip
        edge = [left * SCALE, 12 * SCALE, (left + SIDE) * SCALE, (12 + SIDE) * SCALE]
        if image is None:
            pen.rectangle(edge, outline=INK)
        else:
            large = enlarged(image, SIDE * SCALE)
            sheet.paste(large, (edge[0] + (SIDE * SCALE - large.width) // 2, edge[1]))
        text(pen, left, SIDE + 28, f"{name}, {at}", INK, anchor="lm")
    if not bare:
        assert seen.table is not None
        _paint(sheet, pen, seen.table, 12, head)
    return png(sheet)


def _paint(sheet: Any, pen: Any, table: pd.DataFrame, left: int, y: int) -> None:
    """The chart on a sheet, its upper left corner at (left, y) units."""
    from .paint import SCALE, box, text

    top, slot = max(int(table[["up", "down"]].to_numpy().max()), 1), _wide(len(table)) / len(table)
    right = left + _wide(len(table))
    for i, (_, up, down) in enumerate(table[["up", "down"]].itertuples()):
        for number, at, colour, pattern in ((up, 0.08, UP, "/"), (down, 0.52, DOWN, "")):
            if number:
                x, tall = left + (i + at) * slot, max(TALL * number / top, 1)
                box(sheet, x, y + FLOOR - tall, x + max(0.4 * slot, 1), y + FLOOR, colour, pattern)
    pen.line([left * SCALE, (y + FLOOR) * SCALE, right * SCALE, (y + FLOOR) * SCALE], fill=INK, width=SCALE)
    ends = {"start": (left, "lm"), "end": (right, "rm")}
    for tall, place, words in _labels(table):
        text(pen, ends[place][0], y + FLOOR - tall - 9, words, INK, anchor=ends[place][1])
    for place, step in list(zip(ends, (table.index[0], table.index[-1]), strict=True))[: len(table)]:
        text(pen, ends[place][0], y + HEIGHT - 8, f"step {step}", INK, anchor=ends[place][1])
    for x, colour, pattern, words in ((left, UP, "/", "up"), (left + 60, DOWN, "", "down: payload bytes at each step")):
        box(sheet, x, y + HEIGHT + 10, x + 14, y + HEIGHT + 24, colour, pattern)
        text(pen, x + 20, y + HEIGHT + 16, words, INK, anchor="lm")
