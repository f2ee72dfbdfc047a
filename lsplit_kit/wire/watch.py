"""What a host tells of itself when it is asked: whether it is well, how busy it is, which tensors it holds.

Each answer crosses as the UTF-8 bytes of one JSON value, and is read as everything that a peer sends: exact types,
bounded numbers and texts, or a FrameError. Names that a newer host adds are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple, get_type_hints

from ..errors import FrameError

STAGES = ("waiting", "codec", "computing")  # of a step at the host
KINDS = ("layers", "parts", "whole")  # what a host holds: of a language model, of a denoiser, all of a model
MAX_HELD, MAX_SESSIONS, MAX_TEXT = 1 << 16, 1 << 13, 400
_LARGEST = 1 << 62


class Health(NamedTuple):
    """Whether a host is ready, and what it serves: layers or parts [start, stop) of a model; uptime in seconds."""

    ready: bool
    model: str
    fingerprint: str
    kind: str
    start: int
    stop: int
    uptime: int
    protocol: str

    def raw(self) -> bytes:
        """The answer as it crosses."""
        return _dump(self._asdict())

    @classmethod
    def read(cls, raw: bytes) -> Health:
        """A peer's answer; raises FrameError."""
        found = cls(**_fields("health", _load(raw), cls))
        if found.kind not in KINDS or found.start >= found.stop:
            raise FrameError("A host's health names no layers.")
        return found


class Use(NamedTuple):
    """One session: whose it is, its number on its connection, bytes that it keeps, seconds since it was used."""

    owner: str
    number: int
    size: int
    idle: int


class Stats(NamedTuple):
    """How busy a host is since it began. Only `sessions` tells clients apart: those of whoever asked, or everybody's.

    memory, limit, quota: bytes of all sessions, at most of all, at most of one client. queued, queue: steps that wait,
    and may wait at most; refused: those that were too many. hits: steps that found what their session remembers,
    misses: those that did not. waiting, codec, computing: (median, 95th percentile) in microseconds of the last steps.
    """

    everybody: bool
    uptime: int
    connections: int
    queued: int
    queue: int
    refused: int
    memory: int
    limit: int
    quota: int
    steps: int
    hits: int
    misses: int
    evictions: int
    waiting: tuple[int, int]
    codec: tuple[int, int]
    computing: tuple[int, int]
    sessions: tuple[Use, ...]

    def raw(self) -> bytes:
        """The answer as it crosses."""
        return _dump(self._asdict())

    @classmethod
    def read(cls, raw: bytes) -> Stats:
        """A peer's answer; raises FrameError."""
        given = _fields("stats", _load(raw), cls)
        for name in STAGES:
            given[name] = tuple(_row("stats", given[name], (int, int)))
        if len(given["sessions"]) > MAX_SESSIONS:
            raise FrameError("A host's stats name too many sessions.")
        given["sessions"] = tuple(Use(*_row("stats", row, (str, int, int, int))) for row in given["sessions"])
        return cls(**given)


class Holding(NamedTuple):
    """One tensor that a host holds, or a part without tensors (a tokenizer: no shape, no bytes, no hash)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    sha256: str


def dump_holdings(total: int, rows: Iterable[Holding]) -> bytes:
    """Some of a host's `total` holdings as they cross."""
    return _dump({"total": total, "held": list(rows)})


def read_holdings(raw: bytes) -> tuple[int, list[Holding]]:
    """(how many there are in all, some of them) from a peer's answer; raises FrameError."""
    given = _load(raw)
    total, rows = given.get("total"), given.get("held")
    if type(total) is not int or not 0 <= total <= MAX_HELD or type(rows) is not list or len(rows) > total:
        raise FrameError("A host's holdings are a number and a list.")
    found = []
    for row in rows:
        name, shape, dtype, size, sha = _row("holdings", row, (str, list, str, int, str))
        if len(shape) > 16 or any(type(n) is not int or not 0 <= n < _LARGEST for n in shape):
            raise FrameError("A host's holdings have a shape that is none.")
        found.append(Holding(name, tuple(shape), dtype, size, sha))
    return total, found


class Watched:
    """Asks a host about itself; a subclass says how in `told`. Also raises what asking raises."""

    def told(self, name: str, *args: int) -> bytes:
        """The raw answer to one of the questions health, stats and holdings(first)."""
        raise NotImplementedError

    def health(self) -> Health:
        """Whether the host is ready, and what it serves; raises FrameError."""
        return Health.read(self.told("health"))

    def stats(self) -> Stats:
        """How busy the host is; raises FrameError."""
        return Stats.read(self.told("stats"))

    def holdings(self) -> list[Holding]:
        """Every tensor that the host says it holds, in as many answers as it takes; raises FrameError."""
        total, found = read_holdings(self.told("holdings", 0))
        while len(found) < total:
            again, rows = read_holdings(self.told("holdings", len(found)))
            found += rows
            if again != total or not rows:
                raise FrameError("The host's holdings changed while they were told.")
        if len(found) > total:
            raise FrameError("The host told more holdings than it has.")
        return found


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _load(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw.decode())
    except (ValueError, RecursionError):
        found = None
    if type(found) is not dict:
        raise FrameError("A host's answer about itself is a JSON object.")
    return found


def _fields(what: str, given: dict[str, Any], cls: Any) -> dict[str, Any]:
    """The values of a named tuple's fields, each of its type; lists for tuples."""
    names = cls._fields
    hints = get_type_hints(cls)
    wanted = [hints[name] if hints[name] in (bool, int, str) else list for name in names]
    return dict(zip(names, _row(what, [given.get(name) for name in names], tuple(wanted)), strict=True))


def _row(what: str, values: object, kinds: tuple[type, ...]) -> list[Any]:
    """Values of exactly these types; numbers from 0 on, texts that can be printed."""
    if type(values) is not list or [type(value) for value in values] != list(kinds):
        raise FrameError(f"A host's {what} does not have the agreed form.")
    if any(type(value) is int and not 0 <= value < _LARGEST for value in values):
        raise FrameError(f"A host's {what} has a number out of range.")
    return [_printable(value) if type(value) is str else value for value in values]


def _printable(text: str) -> str:
    return "".join(ch if ch.isprintable() else "?" for ch in text[:MAX_TEXT])
