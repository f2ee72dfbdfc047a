"""A host that is watched: what it tells a client, and what it tells the process that started it."""

from __future__ import annotations

import contextlib
import itertools
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from ..errors import Busy, HostTimeout, HostUnavailable, LsplitError, VersionMismatch
from ..split.telling import stats_of
from ..wire.watch import Watched

ASKED = ("health", "stats", "holdings")


class Watch:
    """One host's answers about itself; it counts the connections."""

    def __init__(self, body: Any, turns: Any) -> None:
        self.body, self.turns, self.connections = body, turns, 0
        self._mutex = threading.Lock()

    def count(self, more: int) -> None:
        """A connection came (1) or went (-1)."""
        with self._mutex:
            self.connections += more

    def told(self, owner: str | None, name: str, *args: int) -> bytes:
        """The answer to one of ASKED; of sessions, those of `owner`, or None for everybody's. Raises FrameError."""
        if name != "stats" or args:
            return self.body.told(name, *args)
        queued = sum(self.turns.queued().values())
        pool, most, refused = self.body.pool, self.turns.waiting, self.turns.refused
        return stats_of(pool, owner, self.connections, queued, most, refused).raw()


class AskedLink(Watched):
    """The questions of a link to a host elsewhere; mixed into one that can call (`Talk`)."""

    def told(self, name: str, *args: int) -> bytes:
        """Ask the host; raises Busy while steps are under way here, and VersionMismatch where it cannot answer."""
        link: Any = self
        with link._lock:
            if link._asked_for:
                raise Busy("Answers of steps are under way on this link; ask again when they are read.", 0.1)
            link._ensure()
            if _minor(link.info.protocol) < 1:
                said = f"The host speaks wire {link.info.protocol}, which cannot tell its {name}"
                raise VersionMismatch(f"{said}; install the same lsplit_kit on both.")
            raw, up, down = link._call(name, args, (bytes,))
            link._note(name, up, down)
            return raw


def _minor(protocol: str) -> int:
    last = protocol.partition(".")[2]
    return int(last) if last.isdecimal() else 0


class Parent:
    """The near end of the pipes to a child host: a question is a line on its stdin, the answer one on its stdout."""

    def __init__(self, process: subprocess.Popen, lines: queue.Queue[str], seconds: float = 30.0) -> None:
        self._process, self._lines, self._seconds = process, lines, seconds
        self._numbers, self._lock = itertools.count(1), threading.Lock()

    def told(self, name: str, *args: int) -> bytes:
        """The child's answer; raises HostUnavailable when it has ended, HostTimeout when it says nothing."""
        with self._lock:
            number = str(next(self._numbers))
            try:
                self._process.stdin.write(" ".join((number, name, *map(str, args), "\n")).encode())  # type: ignore[union-attr]
                self._process.stdin.flush()  # type: ignore[union-attr]
                while True:
                    line = self._lines.get(timeout=self._seconds)
                    if not line:
                        self._lines.put(line)  # the end, for the next question too
                        raise HostUnavailable("The host has ended; start another one.")
                    mark, _, answer = line.partition(" ")
                    if mark == number:  # others answer questions that nobody waits for any more
                        return answer.encode()
            except queue.Empty:
                raise HostTimeout(f"The host did not say its {name} within {self._seconds:g} s.") from None
            except (OSError, ValueError):
                raise HostUnavailable("The host has ended; start another one.") from None


class Child:
    """The far end: `feed` takes what comes on stdin, once `told` is set."""

    def __init__(self) -> None:
        self.told: Callable[..., bytes] | None = None
        self._rest = b""

    def feed(self, raw: bytes) -> None:
        """Answer every whole line that came."""
        *lines, self._rest = (self._rest + raw)[-4096:].split(b"\n")
        for line in lines:
            number, name, *args = [*line.decode("ascii", "replace").split(), "", ""]
            args = [word for word in args if word]
            answer = b"{}"
            with contextlib.suppress(LsplitError, ValueError):
                if name in ASKED and self.told is not None:
                    answer = self.told(None, name, *map(int, args))
            print(ascii(number)[1:-1], answer.decode(), file=sys.__stdout__, flush=True)
