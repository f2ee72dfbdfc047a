"""What both sides remember, position by position: the local slot above, the host below, and what crosses between."""

from __future__ import annotations

from collections.abc import Sequence

from ..measure.moments import Moment
from .hatch import frame, hatch
from .show import Shown, show
from .sketch import Sketch
from .stack import counted
from .style import BODY, HEAD, PAPER, TAIL

WIDTH, LEFT, RIGHT = 740, 116.0, 14  # units
SLOT, HOST, TALL, HEIGHT = 46, 122, 34, 216  # top of both rows, height of a row, and of the sheet
REJECTED = "#D55E00"
HOLDS = {"none": "nothing", "hidden": "hidden vectors", "kv": "keys and values"}
THIN = 5.0  # units: positions that are narrower are drawn as one box


def caches(told: Sequence[Moment], at: int, policy: str) -> Shown:
    """Both caches at moment number `at` (from 0) as a picture and a sentence; raises IndexError."""
    return show(None, caches_sketch(told, at, policy).png(), caches_alt(told, at, policy))


def caches_sketch(told: Sequence[Moment], at: int, policy: str, headline: bool = True) -> Sketch:
    """The picture as a sketch; all moments share one scale, so that nothing jumps from one to the next."""
    # A prefill may hold guesses, but nothing of the prompt is ever rejected.
    now, prompt = told[at], min(moment.local for moment in told)
    sheet = Sketch(WIDTH, HEIGHT)
    most = max(max(m.local + m.rejected, m.host) for m in told)
    cell = min((WIDTH - LEFT - RIGHT) / most, 26.0)
    if headline:
        sheet.text(LEFT, 16, f"{now.what}: {said(now, policy)}")
    for top, name, what in ((SLOT, "local slot", HOLDS["hidden"]), (HOST, "host", HOLDS[policy])):
        sheet.text(LEFT - 8, top + 14, name, "end")
        sheet.text(LEFT - 8, top + 29, what, "end")
    new = now.start if now.vectors else now.local
    _row(sheet, SLOT, cell, now.local, new, HEAD, "hidden vector", 1)
    if policy == "none" or not now.host:
        end = LEFT + cell * max(now.local, 1)
        frame(sheet, LEFT, HOST, end, HOST + TALL, dashed=True)
        words = "remembers nothing" if policy == "none" else "has forgotten everything"
        sheet.text(LEFT + 6, HOST + TALL / 2 + 4, words)
    else:
        kind, deep = ("key and value", 2) if policy == "kv" else ("hidden vector", 1)
        good = now.host - (now.rejected if now.what == "rollback" else 0)
        _row(sheet, HOST, cell, good, new if now.vectors else good, BODY, kind, deep)
        if good < now.host:
            _rejected(sheet, HOST, cell, good, now.host, "rejected; cropped when the next step starts below it")
    if now.what == "rollback":
        _rejected(sheet, SLOT, cell, now.local, now.local + now.rejected, "rejected: the local side has dropped it")
    _between(sheet, now, cell)
    edge = LEFT + cell * min(prompt, now.local)
    for top in (SLOT, HOST):
        sheet.line(edge, top - 5, edge, top + TALL + 5, width=2.0)
    sheet.text(max(edge - 5, LEFT + 44), SLOT - 8, "prompt", "end")
    _legend(sheet)
    return sheet


def _row(sheet: Sketch, top: float, cell: float, end: int, new: int, colour: str, kind: str, deep: int) -> None:
    """Positions 0 to `end`; those from `new` on cross in this step. deep: boxes on top of each other."""
    spans = [(k, k + 1) for k in range(end)] if cell >= THIN else [(0, new), (new, end)]
    gap = 1.0 if cell >= THIN else 0.0
    for first, stop in spans:
        if stop <= first:
            continue
        fresh = first >= new
        where = f"position {first}" if stop == first + 1 else f"positions {first} to {stop - 1}"
        for k in range(deep):
            low = top + k * (TALL + 2) / deep
            high = top + (k + 1) * (TALL + 2) / deep - 2
            box = LEFT + cell * first + gap / 2, low, LEFT + cell * stop - gap / 2, high
            sheet.box(*box, TAIL if fresh else colour, f"{where}: {kind}{', crosses' if fresh else ''}")
            if fresh:
                hatch(sheet, *box, PAPER, "\\", gap=5)


def _rejected(sheet: Sketch, top: float, cell: float, first: int, stop: int, words: str) -> None:
    for k in range(first, stop):
        box = LEFT + cell * k + 0.5, top, max(LEFT + cell * (k + 1) - 0.5, LEFT + cell * k + 2), top + TALL
        sheet.box(*box, PAPER, f"position {k}: {words}")
        hatch(sheet, *box, REJECTED, "x", gap=5)
        frame(sheet, *box, REJECTED)


def _between(sheet: Sketch, now: Moment, cell: float) -> None:
    """The arrows of a step, under the positions that cross."""
    high, low = SLOT + TALL + 8, HOST - 8
    if not now.vectors:
        sheet.text(LEFT, (high + low) / 2 + 4, "nothing crosses")
        return
    left, right = LEFT + cell * now.start, LEFT + cell * (now.start + now.vectors)
    sheet.line(left, high - 3, right, high - 3, TAIL, width=2.0)
    sheet.line(left, low + 3, right, low + 3, TAIL, width=2.0)
    middle = min(max((left + right) / 2, LEFT + 12), WIDTH - RIGHT - 12)
    for x, way in ((middle - 6, 1), (middle + 6, -1)):
        tip, tail = (low, high) if way > 0 else (high, low)
        sheet.line(x, tail, x, tip - 7 * way, width=2.0)
        corners = [(x, tip), (x - 4, tip - 8 * way), (x + 4, tip - 8 * way)]
        for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
            sheet.line(*a, *b, width=2.0)
    words = f"{counted(now.vectors, 'vector')} to the host, {now.vectors:,} back"
    if middle + 16 + 7 * len(words) < WIDTH:
        sheet.text(middle + 16, (high + low) / 2 + 4, words)
    else:
        sheet.text(middle - 16, (high + low) / 2 + 4, words, "end")


def _legend(sheet: Sketch) -> None:
    x, y = LEFT, HEIGHT - 12
    for name, colour in (("remembered locally", HEAD), ("by the host", BODY), ("crosses in this step", TAIL),
                         ("rejected", REJECTED)):  # fmt: skip
        box = x, y - 11, x + 14, y + 1
        sheet.box(*box, PAPER if colour == REJECTED else colour)
        if colour in (TAIL, REJECTED):
            hatch(sheet, *box, PAPER if colour == TAIL else REJECTED, "\\" if colour == TAIL else "x", gap=4)
        if colour == REJECTED:
            frame(sheet, *box, REJECTED)
        sheet.text(x + 20, y, name)
        x += 40 + 6.6 * len(name)


def said(now: Moment, policy: str) -> str:
    """What happens at this moment, in words."""
    ran = f"the host computes {counted(now.ran, 'position')}"
    if now.what == "rollback":
        rest = "the host hears of it by the start of the next step" if policy != "none" else "the host kept nothing"
        return f"the last {counted(now.rejected, 'position')} were wrong guesses; {rest}"
    if now.what == "lost":
        return "the host started anew" + ("; it had nothing to lose" if policy == "none" else " and forgot the session")
    crossed = f"{counted(now.vectors, 'vector')} up, {now.vectors:,} down from position {now.start}"
    if now.what == "draft":
        return f"a token and guesses behind it; {crossed}, {ran}"
    return f"{crossed}, {ran}"


def caches_alt(told: Sequence[Moment], at: int, policy: str) -> str:
    """One sentence that says what the picture shows."""
    now = told[at]
    host = f"the host {now.host:,} as {HOLDS[policy]}" if now.host else "the host nothing"
    return (
        f"Step {at + 1} of {len(told)}, {now.what}: {said(now, policy)}. The local slot remembers "
        f"{counted(now.local, 'position')}, {host}."
    )
