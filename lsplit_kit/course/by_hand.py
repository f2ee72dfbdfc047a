"""Hosts by hand: a server to break, bytes that no client would send, a kill in mid-sentence, a rule of one's own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import StoppingCriteria

from ..card import Card
from ..errors import AuthError
from ..remote.address import parse_address
from ..remote.host import Host, _stop
from ..remote.stream import FastStream
from ..remote.token import MAGIC, find_token, prove_to_host
from ..split.pool import Pool
from ..split.sessions import Remembered

# The child's whole program: the learner's text, then listen, say at which port, and end when our end of stdin closes.
_CHILD = """
import linecache, logging, os, sys, threading
source = sys.argv[1]
linecache.cache["server.py"] = (len(source), None, source.splitlines(True), "server.py")  # for its tracebacks
names = {"__name__": "server"}
exec(compile(source, "server.py", "exec"), names)
logging.disable()
if names["server"].host not in ("127.0.0.1", "::1"):
    sys.exit("a server in a class listens on 127.0.0.1 and nowhere else")
names["server"].listener.listen(8)
print(names["server"].port, flush=True)
threading.Thread(target=names["server"].start, daemon=True).start()
sys.stdin.read()
os._exit(0)
"""


class Child(Card):
    """A server in a child process: `source` is Python that builds an rpyc server called `server` on 127.0.0.1.

    It ends with the block, with `.close()`, or with this process. `.port` is where it listens. Raises ValueError when
    the source builds none, and for a server on any other address.
    """

    def __init__(self, source: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, source],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        self._finalizer = weakref.finalize(self, _stop, self._process, os.getpid())
        assert self._process.stdout and self._process.stderr
        first = self._process.stdout.readline().strip()
        if not first.isdecimal():
            self.close()
            said = self._process.stderr.read().strip().splitlines()
            raise ValueError(f"The server did not start: {said[-1] if said else 'it said nothing'}")
        self.port = int(first)
        threading.Thread(target=self._process.stderr.read, daemon=True).start()  # a full pipe would stop the child

    @property
    def running(self) -> bool:
        """Whether the child is alive."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the child and wait until it is gone; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _card(self) -> tuple[str, dict[str, object]]:
        return "A server in a child process", {"state": "running" if self.running else "ended"}


class Line(Card):
    """One TCP connection, in bytes: `Line(port)` to any server of this machine, `Line(host.address)` to a host.

    A host is shown the token first, as its file of this user has it. `deadline`: seconds for a whole frame. Raises
    AuthError, ConnectionError.
    """

    def __init__(self, to: int | str, deadline: float = 10.0) -> None:
        where = ("127.0.0.1", to) if isinstance(to, int) else parse_address(to)
        self._stream = FastStream(socket.create_connection(where, timeout=5), deadline)
        if not isinstance(to, int):
            prove_to_host(self._stream, find_token(*where))

    def write(self, raw: bytes) -> None:
        """Send these bytes as they are."""
        self._stream.write(raw)

    def read(self, count: int) -> bytes:
        """Wait for exactly `count` bytes; raises EOFError when the other side hung up or took too long."""
        return bytes(self._stream.read(count))

    def ask(self, frame: bytes) -> bytes:
        """Send a frame and return the frame that comes back, b"" where the other side hung up instead."""
        try:
            self.write(frame)
            head = self.read(5)
            return head + self.read(int.from_bytes(head[:4], "big") + 1)
        except EOFError:
            return b""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stream.close()


class Place(NamedTuple):
    """A session at a host: its name, whose it is, bytes, seconds since it was used, whether a step is under way."""

    name: str
    owner: str
    size: int
    idle: float
    busy: bool = False


def at_the_door(let_in: Callable[..., object], token: bytes, theirs: bytes) -> tuple[bool, str]:
    """The kit's local side, with the token `theirs`, at a learner's `let_in` of 05.4: (let in, what that side says)."""
    near, far = socket.socketpair()
    local, host = FastStream(near, 5.0), FastStream(far, 5.0)
    told: list[str] = []

    def knock() -> None:
        try:
            prove_to_host(local, theirs)
            told.append("the host proved itself")
        except (AuthError, EOFError) as error:
            told.append(str(error))
            local.close()

    def ask(message: bytes) -> bytes:
        host.write(message)
        try:
            return bytes(host.read(32))
        except EOFError:  # the local side did not like our proof
            return b""

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    try:
        came = bytes(host.read(len(MAGIC) + 16))
        inside = bool(let_in(token, came[len(MAGIC) :], lambda: os.urandom(16), ask))
    finally:
        host.close()
        thread.join(6)
    return inside, told[0] if told else "nothing"


def weight(value: object) -> int:
    """Bytes that a value takes in memory: sys.getsizeof of every object in it, tuples' parts included, each once."""
    seen, left, total = set[int](), [value], 0
    while left:
        one = left.pop()
        if id(one) not in seen:
            seen.add(id(one))
            total += sys.getsizeof(one)
            left += one if isinstance(one, tuple) else ()
    return total


class AtToken(StoppingCriteria):
    """Calls `do()` when `token` new tokens are there, and never ends the reply."""

    def __init__(self, token: int, do: Callable[[], object]) -> None:
        self.token, self.do, self.seen = token, do, 0

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Any:
        self.seen += 1
        if self.seen == self.token:
            self.do()
        return torch.zeros(len(input_ids), dtype=torch.bool)


def kill(host: Host) -> None:
    """End a host's process at once, as `kill -9` does, and wait until it is gone."""
    if host.running:  # else the number may be another process's by now
        os.kill(host.pid, 9)
    while host.running:
        time.sleep(0.01)


class OwnRule(Pool):
    """A host's pool in which a learner's `to_forget` of 05.6 says what is forgotten after each step."""

    def __init__(self, rule: Callable[..., Any], limit: int, quota: int) -> None:
        super().__init__(limit, quota)
        self.rule = rule

    def reserve(self, session: Remembered, size: int) -> None:
        """Nobody forgets before a step: the rule is asked after it."""
        self.check(size)

    def _make_room(self, owner: str) -> None:
        now, named = time.monotonic(), dict(zip(map(str, range(len(self._places))), self._places, strict=True))
        places = [
            Place(name, place.home.owner, place.size, now - place.used, place.busy)
            for name, place in ((name, self._places[session]) for name, session in named.items())
        ]
        for name in list(self.rule(places, owner, self.limit, self.quota)):
            self._forget(named[name], self._places[named[name]])
