"""The stack of layers as a picture: the body on the upper floor, the host's; head and tail on the lower, the local one.

Both drawings share one geometry: an inset on either side holds the embedding and the norm with the LM head, and the
decoder layers share the width between, so that a slider with the same insets stands over the cuts.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from .style import COLOURS, INK, PATTERNS

PLACES = {"head": "local", "body": "host", "tail": "local"}
INSET, FLOOR, CEILING, TALL, HEIGHT = 96, 104, 32, 44, 188  # pixels: side, top of the local and the host's bars, ...
ASIDE = 4  # pixels that the arrows stand outside the cuts, so that those of a thin body do not meet
LABEL, CAPTION, LINE = FLOOR + TALL + 18, CEILING + 11, 16  # baselines of the first lines, and the step to the next


class Bar(NamedTuple):
    """One bar: its part, what it stands for, and the layer's number (-1: embedding, `layers`: norm and LM head)."""

    part: str
    name: str
    place: int

    @property
    def top(self) -> int:
        """Pixels from the picture's upper edge."""
        return CEILING if self.part == "body" else FLOOR


def bars(layers: int, head: int, tail: int) -> Iterator[Bar]:
    """Every bar from left to right."""
    for place in range(-1, layers + 1):
        part = "head" if place < head else "body" if place < layers - tail else "tail"
        name = "embedding" if place < 0 else "norm and LM head" if place == layers else f"decoder layer {place}"
        yield Bar(part, name, place)


def counted(number: int, noun: str = "layer") -> str:
    """`1 layer`, `2 layers`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def labels(layers: int, head: int, tail: int) -> dict[str, str]:
    """What each part holds, in words."""
    return {
        "head": "embedding" + (f" + {counted(head)}" if head else ""),
        "body": counted(layers - head - tail),
        "tail": (f"{counted(tail)} + " if tail else "") + "norm, LM head",
    }


def stack_svg(layers: int, head: int, tail: int, up: int, down: int) -> str:
    """The picture as inline SVG in the page's own text colour; widths follow the page, texts keep their size.

    up and down are payload bytes per token.
    """
    mark = f"lsplit-{layers}-{head}-{tail}"
    said, words = labels(layers, head, tail), escape(stack_alt(layers, head, tail, up, down), quote=True)
    left, right = 100 * head / layers, 100 * (1 - tail / layers)
    drawn = "".join(_bar(bar, layers, mark) for bar in bars(layers, head, tail))
    return (
        f"<div class='lsplit-stack' style='padding:0 {INSET}px;color:var(--jp-ui-font-color1,inherit)'>"
        f"<svg role='img' aria-label='{words}' width='100%' height='{HEIGHT}' overflow='visible' fill='currentColor' "
        "style='display:block;overflow:visible;font:13px var(--jp-ui-font-family,sans-serif)'>"
        f"<defs>{''.join(_hatch(part, mark) for part in PATTERNS)}</defs>{drawn}"
        f"<text x='{(left + right) / 2:.3f}%' y='{CEILING - 12}' text-anchor='middle'>"
        f"<tspan font-weight='bold'>body</tspan>, on the host: {said['body']}</text>"
        f"{_lines('0%', -INSET, 'start', LABEL, 'head, local side', said['head'])}"
        f"{_lines('100%', INSET, 'end', LABEL, 'tail, local side', said['tail'])}"
        f"{_arrow(left, -1)}{_lines(f'{left:.3f}%', -14, 'end', CAPTION, 'up', f'{up:,} B', 'per token')}"
        f"{_arrow(right, 1)}{_lines(f'{right:.3f}%', 14, 'start', CAPTION, 'down', f'{down:,} B', 'per token')}"
        "</svg></div>"
    )


def _bar(bar: Bar, layers: int, mark: str) -> str:
    title = f"<title>{bar.name}: {bar.part}, {PLACES[bar.part]}</title>"
    look = f"y='{bar.top}' height='{TALL}' fill='url(#{mark}-{bar.part}) {COLOURS[bar.part]}'"
    if 0 <= bar.place < layers:
        return (
            f"<rect class='lsplit-{bar.part}' x='{100 * (bar.place + 0.06) / layers:.3f}%' "
            f"width='{88 / layers:.3f}%' {look}>{title}</rect>"
        )
    x, shift = ("0%", -INSET) if bar.place < 0 else ("100%", 2)
    return (
        f"<svg x='{x}' overflow='visible' style='overflow:visible'>"
        f"<rect class='lsplit-{bar.part}' x='{shift}' width='{INSET - 2}' {look}>{title}</rect></svg>"
    )


def _hatch(part: str, mark: str) -> str:
    lines = {"/": "M-1 1l2-2M0 8l8-8M7 9l2-2", "\\": "M-1 7l2 2M0 0l8 8M7-1l2 2"}.get(PATTERNS[part])
    dots = "<circle cx='4' cy='4' r='1' fill='#fff'/>"
    inside = f"<path d='{lines}' stroke='#fff' stroke-width='1'/>" if lines else dots
    return (
        f"<pattern id='{mark}-{part}' width='8' height='8' patternUnits='userSpaceOnUse'>"
        f"<rect width='8' height='8' fill='{COLOURS[part]}'/>{inside}</pattern>"
    )


def _lines(x: str, shift: int, anchor: str, y: int, first: str, *more: str) -> str:
    rest = "".join(f"<tspan x='{shift}' dy='{LINE}'>{words}</tspan>" for words in more)
    return (
        f"<svg x='{x}' overflow='visible' style='overflow:visible'><text text-anchor='{anchor}'>"
        f"<tspan x='{shift}' y='{y}' font-weight='bold'>{first}</tspan>{rest}</text></svg>"
    )


def _arrow(percent: float, way: int) -> str:
    """From the local floor up (-1) or from the host's floor down (1)."""
    high, low = CEILING + TALL + 2, FLOOR - 2
    tip, tail = (high, low) if way < 0 else (low, high)
    x, back = ASIDE * way, tip - 8 * way
    return (
        f"<svg x='{percent:.3f}%' overflow='visible' style='overflow:visible'><path stroke='currentColor' "
        f"stroke-width='2' d='M{x} {tail}V{back}'/><path d='M{x} {tip}L{x - 5} {back}h10Z'/></svg>"
    )


def stack_png(layers: int, head: int, tail: int, up: int, down: int, width: int = 800) -> bytes:
    """The same picture as PNG bytes, `width` units wide, drawn without a browser."""
    from .paint import SCALE, box, canvas, png, text

    edge = INSET + 12
    cell = (width - 2 * edge) / layers
    image, pen = canvas(width, HEIGHT + 8)
    for bar in bars(layers, head, tail):
        left = 12 if bar.place < 0 else edge + (bar.place + 0.06) * cell
        right = edge - 2 if bar.place < 0 else width - 12 if bar.place == layers else left + 0.88 * cell
        box(image, left, bar.top, right, bar.top + TALL, COLOURS[bar.part], PATTERNS[bar.part])
    said = labels(layers, head, tail)
    middle = edge + (head + layers - tail) / 2 * cell
    text(pen, middle, CEILING - 16, f"body, on the host: {said['body']}", INK)
    for x, part, place in ((12, "head", "lm"), (width - 12, "tail", "rm")):
        text(pen, x, LABEL - 5, f"{part}, local side", INK, anchor=place)
        text(pen, x, LABEL - 5 + LINE, said[part], INK, anchor=place)
    high, low = CEILING + TALL + 2, FLOOR - 2
    for cut, way, words, size in ((head, -1, "up", up), (layers - tail, 1, "down", down)):
        at, tip, place = edge + cut * cell + ASIDE * way, high if way < 0 else low, "rm" if way < 0 else "lm"
        pen.line([at * SCALE, high * SCALE, at * SCALE, low * SCALE], fill=INK, width=2 * SCALE)
        corners = ((at, tip), (at - 5, tip - 8 * way), (at + 5, tip - 8 * way))
        pen.polygon([(x * SCALE, y * SCALE) for x, y in corners], fill=INK)
        for row, said_so in enumerate((words, f"{size:,} B", "per token")):
            text(pen, at + 10 * way, CAPTION - 4 + row * LINE, said_so, INK, anchor=place)
    return png(image)


def stack_alt(layers: int, head: int, tail: int, up: int, down: int) -> str:
    """One sentence that says what the picture shows."""
    return (
        f"Of {counted(layers, 'decoder layer')}, the head keeps {head} and the tail {tail} on the local side, the host "
        f"runs the {layers - head - tail} between; each token sends {up:,} bytes up and {down:,} bytes down."
    )
