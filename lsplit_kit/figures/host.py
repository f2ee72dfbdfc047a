"""A host as it is seen while it is watched: memory, cache, stages, what it holds, and who is allowed to see what."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from ..measure.audit import Audit
from ..remote.target import WHOSE
from ..wire.watch import STAGES, Health, Stats
from .axes import Axes
from .hatch import frame, hatch
from .numbers import human
from .picture import CELL
from .sketch import Sketch
from .style import BODY, HEAD, INK, PAPER, TAIL
from .timing import seconds

WIDTH, LEFT, RIGHT, ROW = 740, 150, 130, 22  # units: the sheet, labels, numbers, a bar with its surroundings
MOST = 8  # sessions with a bar of their own
ALARM = "#D55E00"
COUNTS = (("hits", HEAD, "circle", False), ("misses", ALARM, "square", True), ("evictions", TAIL, "triangle-up", False))
SEES = {
    "child": "This process started the host, so it is told the sessions of all clients.",
    "here": "The body is in this process; these are its own sessions.",
    "link": "A client is told its own sessions only; of all others it sees their load.",
    "foreign": "This panel has a connection of its own, and is told the sessions of the name it came with; "
    "of all others it sees their load.",
}


@dataclass
class Seen:
    """What is known of one host: health, stats by when they came (seconds), its audit; why: the reason for no news."""

    name: str
    whose: str
    health: Health | None = None
    history: list[tuple[float, Stats]] = field(default_factory=list)
    audit: Audit | None = None
    why: str = ""

    @property
    def now(self) -> Stats | None:
        """The newest stats."""
        return self.history[-1][1] if self.history else None


def host_alt(seen: Seen) -> str:
    """What there is to see, in sentences."""
    health, now = seen.health, seen.now
    gone = f"No news: {seen.why} " if seen.why else ""
    if health is None or now is None:
        return f"{gone}{seen.name}, {WHOSE[seen.whose]}: nothing is known of it yet."
    stages = ", ".join(
        f"{stage} {_micro(getattr(now, stage)[0])} (95 %: {_micro(getattr(now, stage)[1])})" for stage in STAGES
    )
    held = f" {seen.audit.verdict}" if seen.audit else ""
    return (
        f"{gone}{headline(seen)} {_many(len(now.sessions), 'session')} shown; all sessions "
        f"keep {human(now.memory, 'B')} of {human(now.limit, 'B')}. {_counts(now)} A step: {stages}.{held} "
        f"{SEES[seen.whose]}"
    )


def headline(seen: Seen) -> str:
    """Which host it is, and how busy."""
    health, now = seen.health, seen.now
    assert health is not None and now is not None
    served = f"{health.kind} {health.start} to {health.stop - 1} of {health.model}"
    line = f"{now.queued} steps wait ({now.queue} may), {now.refused} were refused"
    return (
        f"{seen.name}, {WHOSE[seen.whose]}: {served}, up for {seconds(now.uptime)}; "
        f"{_many(now.connections, 'connection')}, {line}."
    )


def memory_sketch(now: Stats) -> Sketch:
    """A bar for all sessions and for each that is shown, on a scale of powers of ten up to the limit."""
    shown = sorted(now.sessions, key=lambda use: -use.size)
    rows = [("all sessions", now.memory, "", TAIL, "\\")]
    for use in shown[:MOST]:
        owner = f"{use.owner}, " if now.everybody and use.owner else ""
        idle = f", idle {seconds(use.idle)}" if use.idle else ""
        rows.append((f"{owner}session {use.number}", use.size, idle, HEAD, "/"))
    sheet = Sketch(WIDTH, 26 + ROW * len(rows) + 44)
    bottom, most = 26 + ROW * len(rows), max(now.limit, 10_000)
    axes = Axes(Sketch(WIDTH, bottom), (1000, most), (0, 1), "", "", left=LEFT, right=RIGHT, log_x=True)
    sheet.text(4, 14, "memory of sessions")
    for tick in (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10):
        if tick < most * 0.7:
            sheet.line(axes.x(tick), bottom, axes.x(tick), bottom + 4)
            sheet.text(axes.x(tick), bottom + 17, human(tick, "B").replace(".0", ""), "middle")
    sheet.line(LEFT, bottom, WIDTH - RIGHT, bottom)
    sheet.line(WIDTH - RIGHT, 18, WIDTH - RIGHT, bottom, ALARM, width=2.0, dashed=True, said="the limit")
    sheet.text(WIDTH - RIGHT, bottom + 34, f"limit {human(now.limit, 'B')}", "middle")
    for k, (label, size, more, colour, lean) in enumerate(rows):
        top, words = 26 + ROW * k, f"{human(size, 'B')}{more}"
        sheet.text(LEFT - 8, top + 12, _short(label), "end")
        right = axes.x(min(max(size, 1000), most))
        if size > 1000:
            _bar(sheet, LEFT, top, right, colour, lean, f"{label}: {size:,} bytes")
        sheet.text(right + 6, top + 12, words)
    if len(shown) > MOST:
        sheet.text(4, bottom + 34, f"and {len(shown) - MOST} smaller ones")
    return sheet


def cache_sketch(history: Sequence[tuple[float, Stats]]) -> Sketch:
    """Hits, misses and evictions since the host began, over the time that it was watched."""
    sheet, (end, now) = Sketch(WIDTH, 190), history[-1]
    span = max(end - history[0][0], 10.0)
    most = max(*(getattr(now, name) for name, *_ in COUNTS), 4)
    axes = Axes(sheet, (-span, 0), (0, most * 1.08), "seconds before the last look", "steps since the host began",
                right=RIGHT, left=60)  # fmt: skip
    marked = range(len(history) - 1, -1, -max(len(history) // 12, 1))
    for k, (name, colour, shape, dashed) in enumerate(COUNTS):
        points = [(axes.x(at - end), axes.y(getattr(stats, name))) for at, stats in history]
        for (x, y), (x2, y2) in zip(points, points[1:], strict=False):
            sheet.line(x, y, x2, y2, colour, width=2.0, dashed=dashed and x2 - x > 10)
        for i in marked:
            sheet.mark(*points[i], shape, colour, said=f"{name}: {getattr(history[i][1], name):,}")
        sheet.mark(WIDTH - RIGHT + 18, 40 + 24 * k, shape, colour)
        sheet.text(WIDTH - RIGHT + 30, 44 + 24 * k, _many(getattr(now, name), *_NAMES[name]))
    return sheet


def stages_sketch(now: Stats) -> Sketch:
    """For each stage of a step a bar to the median and a hatched one to the 95th percentile, in powers of ten."""
    sheet = Sketch(WIDTH, 26 + ROW * len(STAGES) + 44)
    bottom, most = 26 + ROW * len(STAGES), max(1e6, *(getattr(now, stage)[1] for stage in STAGES))
    axes = Axes(Sketch(WIDTH, bottom), (10, most), (0, 1), "", "", left=LEFT, right=RIGHT, log_x=True)
    sheet.text(4, 14, "a step at the host: median (filled) and 95th percentile (hatched)")
    for tick in (10.0**power for power in range(1, 9)):
        if tick <= most:
            sheet.line(axes.x(tick), bottom, axes.x(tick), bottom + 4)
            sheet.text(axes.x(tick), bottom + 17, _micro(tick), "middle")
    sheet.line(LEFT, bottom, WIDTH - RIGHT, bottom)
    for k, stage in enumerate(STAGES):
        (half, high), top = getattr(now, stage), 26 + ROW * k
        sheet.text(LEFT - 8, top + 12, stage, "end")
        middle, right = axes.x(max(half, 10)), axes.x(max(high, 10))
        _bar(sheet, LEFT, top, middle, BODY, "", f"{stage}, median: {_micro(half)}")
        if right > middle:
            hatch(sheet, middle, top, right, top + 16, "", gap=5)
            frame(sheet, middle, top, right, top + 16)
        sheet.text(right + 6, top + 12, f"{_micro(half)}, {_micro(high)}")
    return sheet


def sketches(seen: Seen) -> list[Sketch]:
    """All charts, from top to bottom; none before there are stats."""
    if seen.now is None:
        return []
    return [memory_sketch(seen.now), cache_sketch(seen.history), stages_sketch(seen.now)]


def host_html(seen: Seen) -> str:
    """Headline, charts, and what the host holds; exact numbers are in `data-` attributes."""
    tone = f"border-left:4px solid {ALARM};padding-left:8px;margin:6px 0"
    gone = f"<p class='host-gone' style='{tone}'><b>No news.</b> {escape(seen.why)}</p>" if seen.why else ""
    now = seen.now
    if now is None or seen.health is None:
        return gone or f"<p>{escape(host_alt(seen))}</p>"
    numbers = ("connections", "queued", "refused", "memory", "limit", "steps", "hits", "misses", "evictions")
    data = " ".join(f"data-{name}='{getattr(now, name)}'" for name in numbers) + f" data-sessions='{len(now.sessions)}'"
    names = ("host-memory", "host-cache", "host-stages")
    charts = "".join(
        sheet.svg(alt, name)
        for sheet, alt, name in zip(sketches(seen), (host_alt(seen), _counts(now), _stages(now)), names, strict=True)
    )
    return (
        f"<div style='line-height:1.5;color:var(--jp-ui-font-color1,inherit)'>{gone}"
        f"<p class='host-now' {data} style='margin:6px 0'><b>{escape(headline(seen))}</b> "
        f"<span class='host-sees'>{escape(SEES[seen.whose])}</span></p>{charts}{_holds(seen.audit)}</div>"
    )


def host_png(seen: Seen) -> bytes:
    """The same as PNG bytes."""
    import textwrap

    from .paint import canvas, png, text

    sheets, lines = sketches(seen), textwrap.wrap(host_alt(seen), WIDTH // 7)
    above = 18 * len(lines) + 18
    image, pen = canvas(WIDTH, above + sum(sheet.height + 12 for sheet in sheets))
    for k, words in enumerate(lines):
        text(pen, 8, 16 + 18 * k, words, INK, 12, "lm")
    for sheet in sheets:
        sheet.paint(image, pen, 0, above)
        above += sheet.height + 12
    return png(image, colours=128)


def _holds(audit: Audit | None) -> str:
    if audit is None:
        return ""
    rows = "".join(
        f"<tr><th scope='row' style='text-align:left'>{escape(what)}</th><td {CELL}>{many:,}</td>"
        f"<td {CELL}>{size:,}</td><td {CELL}>{_WHERE[fine]}</td></tr>"
        for what, many, size, fine in audit.summary()
    )
    head = "".join(f"<th scope='col' {CELL}>{name}</th>" for name in ("tensors", "bytes", "belongs to"))
    return (
        f"<p class='host-verdict' style='margin:6px 0'>{escape(audit.verdict)} Word of {escape(audit.word)}.</p>"
        "<div style='overflow-x:auto;width:0;min-width:100%'><table class='host-holds' "
        f"data-passed='{audit.passed}' aria-label='What the host holds' style='border-collapse:collapse;margin:6px 0'>"
        f"<thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _bar(sheet: Sketch, left: float, top: float, right: float, colour: str, lean: str, said: str) -> None:
    sheet.box(left, top, right, top + 16, colour, said)
    if lean:
        hatch(sheet, left, top, right, top + 16, PAPER, lean, gap=6)


_WHERE = {True: "body", False: "\u2717 not a body"}
_NAMES = {"hits": ("hit", "hits"), "misses": ("miss", "misses"), "evictions": ("eviction", "evictions")}


def _counts(now: Stats) -> str:
    counted = ", ".join(_many(getattr(now, name), *_NAMES[name]) for name, *_ in COUNTS)
    return f"Since the host began {_many(now.steps, 'step')}: {counted}."


def _stages(now: Stats) -> str:
    said = (f"{stage} {' and '.join(map(_micro, getattr(now, stage)))}" for stage in STAGES)
    return "Median and 95th percentile of a step: " + ", ".join(said) + "."


def _micro(value: float) -> str:
    return seconds(value / 1e6)


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def _short(label: str) -> str:
    return label if len(label) <= 22 else label[:10] + "\u2026" + label[-11:]


def clock() -> float:
    """Seconds on the clock of `Seen.history`."""
    return time.monotonic()
