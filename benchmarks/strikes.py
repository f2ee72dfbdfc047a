"""Hosts that are killed on purpose (SIGKILL), and a link that does it at chosen steps.

Starting a host takes seconds, most of them for imports and weights. So one process loads a body once, and each host is
a fork of it that runs the host's own program: a process of its own, with its own port, token and sessions.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from lsplit_kit.remote import serve

HERE = Path(__file__).resolve()
UNDER_WAY = 0.02  # seconds that a step waits at a stopped host before that is killed
AWAY = 0.2  # seconds until the only host, killed while it had something to do, is started anew


class Born(NamedTuple):
    """A host: its process and its address."""

    pid: int
    address: str

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.address.rpartition(":")[2])


class Nursery:
    """`with Nursery("toy-llama", 2, 2) as nursery: host = nursery.start()`; all of its hosts end with the block."""

    def __init__(self, model: str, head: int = 2, tail: int = 2) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent.parent), env.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, str(HERE), model, str(head), str(tail)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
        )  # fmt: skip

    def start(self, port: int = 0) -> Born:
        """A new host."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{port}\n")
        self._process.stdin.flush()
        ready = json.loads(self._process.stdout.readline())
        return Born(int(ready["pid"]), str(ready["address"]))

    def kill(self, host: Born) -> None:
        """End it as the kernel does when memory is short; it has no time for last words."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(host.pid, signal.SIGKILL)
        while True:  # the nursery takes no notice of its dead, so that they are gone at once
            try:
                os.kill(host.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.001)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Struck:
    """Wraps a link to one host, or to several; kills the host in use when these answers (1, 2, ...) are asked for.

    One host is started anew on its port, and has nobody's session: at once where it is killed between two steps, else
    AWAY seconds later, so that the link finds nobody there. Of several, the one that was killed comes back at the next
    strike, so that the link has to go on at another. `hits` says what was done: (answer, how).
    """

    def __init__(self, inner: Any, nursery: Nursery, hosts: list[Born], at: set[int], seed: int = 0) -> None:
        self.inner, self.nursery, self.at = inner, nursery, set(at)
        self.hosts = {host.address: host for host in hosts}
        self.asked, self.hits = 0, list[tuple[int, str]]()
        self._dead: Born | None = None
        self._back: threading.Timer | None = None  # starts the only host anew
        self._dice = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    on_control = property(
        lambda self: self.inner.on_control, lambda self, hook: setattr(self.inner, "on_control", hook)
    )

    def step(self, session: int, step: Any) -> Any:
        """As the link's; now and then the host is killed before it, or while it is under way."""
        if not self._due():
            return self.inner.step(session, step)
        victim = self._next()
        if self._dice.random() < 0.5:
            self._kill(victim, "between steps", 0)
            return self.inner.step(session, step)
        os.kill(victim.pid, signal.SIGSTOP)  # it takes the step in and does not answer
        later = threading.Timer(UNDER_WAY, self._kill, (victim, "in a step"))
        later.start()
        try:
            return self.inner.step(session, step)
        finally:
            later.join()

    def receive(self, session: int) -> Any:
        """As the link's; now and then the host is killed while steps are under way."""
        if self._due():
            self._kill(self._next(), "with steps under way")
        return self.inner.receive(session)

    def close(self) -> None:
        """As the link's, when the host that was started last is there."""
        self._settle()
        self.inner.close()

    def _due(self) -> bool:
        self.asked += 1
        return self.asked in self.at

    def _next(self) -> Born:
        self._settle()
        if self._dead is not None:
            self._revive()
        return self.hosts[self.inner.address]

    def _kill(self, victim: Born, how: str, away: float = AWAY) -> None:
        self.nursery.kill(victim)
        self.hits.append((self.asked, how))
        self._dead = victim
        if len(self.hosts) == 1:
            self._back = threading.Timer(away, self._revive)
            self._back.start()
            if not away:
                self._settle()

    def _settle(self) -> None:
        if self._back is not None:
            self._back.join()
            self._back = None

    def _revive(self) -> None:
        assert self._dead is not None
        self.hosts[self._dead.address] = self.nursery.start(self._dead.port)
        self._dead = None


def strikes(kills: int, last: int, seed: int) -> set[int]:
    """So many random answers from 1 to `last`, no two in a row: the second of two would hit the same call again."""
    return {n + i for i, n in enumerate(sorted(random.Random(seed).sample(range(1, last - kills + 2), kills)))}


BODY: Any = None


def held(*_: object) -> Any:
    """The body that was loaded before the host was born."""
    return BODY


def nurse(model: str, head: int, tail: int) -> None:
    """Load a body; for each port on stdin become one more host there."""
    global BODY
    from lsplit_kit.models.partial import load_body

    ends_with_its_parent()
    BODY = load_body(model, head, tail, "float32")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork() == 0:
            ends_with_its_parent()
            os._exit(serve.main(["--model", model, "--port", line.strip(), "--loader", "__main__:held"]))


def ends_with_its_parent() -> None:
    """Ask the kernel to end this process when the one that made it ends (Linux)."""
    import ctypes

    ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))


if __name__ == "__main__":
    nurse(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
