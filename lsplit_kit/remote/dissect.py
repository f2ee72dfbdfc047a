"""Frames field by field, as docs/wire-format.md has them: every byte of a direction gets a row that says what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpyc.core import brine

from ..errors import FrameError
from .brinewalk import EMPTY, INT, SMALL_INTS, TEXT, TUP_L1, TUPLES, Refused, bytes_at, walk

if TYPE_CHECKING:
    import pandas as pd

HANDSHAKE = {"up": 56, "down": 48}  # bytes before the first frame
KINDS = {1: "request", 2: "reply", 3: "error"}
STEP = ("session", "step_no", "start", "batch", "tokens", "payload", "rows", "pads", "positions")
PICTURE = ("session", "step_no", "start", "form", "payload")
OPEN = ("cache policy", "codec up", "codec down")


def frames(raw: bytes, direction: str) -> list[bytes]:
    """The frames of one connection's direction ("up" or "down"), in order; raises FrameError where one is cut short."""
    at, found = HANDSHAKE[direction], []
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        end = at + 4 + 1 + size + 1
        if end > len(raw) or raw[end - 1 : end] != b"\n":
            raise FrameError("The bytes end inside a frame, or are not those of a whole connection.")
        found.append(raw[at:end])
        at = end
    return found


def fields(frame: bytes) -> pd.DataFrame:
    """One row per field of a frame: offset, bytes (how many), hex, and what it is; raises FrameError."""
    import pandas as pd

    size, kind = int.from_bytes(frame[:4], "big"), frame[5:6]
    if len(frame) != size + 6 or kind not in (b"\1", b"\2", b"\3") or frame[-1:] != b"\n":
        raise FrameError("These bytes are not one frame of this wire.")
    try:
        walk(memoryview(frame)[6:-1])
    except Refused as error:
        raise FrameError(f"The frame's value is none that may cross: {error}.") from None
    rows = [(0, 4, f"size of the body: {size:,} bytes", 0), (4, 1, "not compressed", 0), (5, 1, KINDS[kind[0]], 0)]
    values = _values(frame, 6, len(frame) - 1)
    names = iter(_names(kind[0], [value for _, _, value in values]))
    for at, many, value in values:
        rows.append((at, many, f"{next(names)}: {_said(value)}", len(value) if isinstance(value, bytes) else 0))
    rows.append((len(frame) - 1, 1, "end of the frame", 0))
    table = [(at, many, _hex(frame[at : at + many], left), words) for at, many, words, left in rows]
    return pd.DataFrame(table, columns=["offset", "bytes", "hex", "field"]).set_index("offset")


def _values(frame: bytes, at: int, end: int) -> list[tuple[int, int, object]]:
    """(offset, bytes, value) of every tag in order; a tuple is its tag alone, and its value says how many follow."""
    found: list[tuple[int, int, object]] = []
    view = memoryview(frame)
    while at < end:
        tag, begin = frame[at], at
        at += 1
        if tag in TUPLES or tag == TUP_L1:
            many = TUPLES.get(tag, frame[at])
            at += tag == TUP_L1
            found.append((begin, at - begin, Tuple(many)))
            continue
        if tag == TEXT:
            _, at = bytes_at(view, at + 1, frame[at])
        elif tag == INT:
            at += 1 + frame[at]
        elif tag not in SMALL_INTS and tag not in EMPTY:
            _, at = bytes_at(view, at, tag)
        empty = tag == brine.TAG_EMPTY_TUPLE[0]
        found.append((begin, at - begin, Tuple(0) if empty else brine.load(frame[begin:at])))
    return found


class Tuple(int):
    """A tuple's tag: how many values follow."""


def _names(kind: int, values: list[object]) -> list[str]:
    """What the values of a body are, in order."""
    front = ["tuple", "request number", "tuple"]
    if kind == 2:
        front += ["label, by value", "value"]
    elif kind == 3:
        front += ["code", "text", "request id", "positions at the host"]
    else:
        front += ["a named call", "tuple", "label, by value", "tuple", "target", "name", "tuple of arguments"]
        many = int(values[9]) if len(values) > 9 and isinstance(values[9], Tuple) else 0
        name = str(values[8]) if many else ""
        given = {"step": PICTURE if many == len(PICTURE) else STEP, "open": OPEN, "close_session": ("session",)}
        front += [*given.get(name, ()), *["argument"] * many][:many] + ["named arguments"]
    return [*front, *["value"] * len(values)][: len(values)]


def _said(value: object) -> str:
    if isinstance(value, Tuple):
        return f"{int(value)} values follow" if value else "empty"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return repr(value)


def _hex(raw: bytes, left: int) -> str:
    """A field in hex; of a payload only its tag and length, and dots for the `left` bytes behind them."""
    return raw[: len(raw) - left].hex(" ") + (" ..." if left else "")
