"""A client that weighs little, for it knows no torch: it sends vectors that were recorded, and is there to be killed.

`python light.py RECORD SEED` joins a host, sends texts, leaves and joins again until it is killed. It says a line when
it joined, and one for each text: whether what came down is what was recorded.
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import sys
from array import array
from pathlib import Path
from typing import Any, NamedTuple

from rpyc.utils.factory import connect_channel

from lsplit_kit.errors import CacheMiss, LsplitError, SessionUnknown
from lsplit_kit.remote.address import is_over_tls, parse_address
from lsplit_kit.remote.protocol import CONFIG, LimitedChannel, PrimitiveService
from lsplit_kit.remote.stream import FastStream
from lsplit_kit.remote.tls import Ticket
from lsplit_kit.remote.token import prove_to_host

SECONDS, TERMS, FLOAT = 60.0, ("kv", "fp32", "fp32"), 4
CLOSE = 1e-3  # of the largest value: steps computed together, or in one where they were several, differ in last bits


class Text(NamedTuple):
    """What crossed for one text: float32 vectors up and down, one of each for a position."""

    prompt: int  # positions of the first step; the others are single
    up: bytes
    down: bytes

    def raw(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"prompt": self.prompt, "up": self.up.hex(), "down": self.down.hex()}

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Text:
        """From JSON."""
        return cls(raw["prompt"], bytes.fromhex(raw["up"]), bytes.fromhex(raw["down"]))


class Light:
    """One connection to a host, after hello."""

    def __init__(self, address: str, record: dict[str, Any]) -> None:
        where = parse_address(address)
        sock = socket.create_connection(where, SECONDS)
        if is_over_tls(address):
            sock, _ = Ticket(record["bundle"]).enter(sock, where[0], address)
        stream = FastStream(sock, SECONDS)
        if not is_over_tls(address):
            prove_to_host(stream, bytes.fromhex(record["token"]), SECONDS)
        self._conn: Any = connect_channel(LimitedChannel(stream), PrimitiveService, CONFIG)
        self._row, self._numbers = record["width"] * FLOAT, itertools.count(1)
        self.call("hello", *record["hello"])

    def call(self, name: str, *args: object) -> Any:
        """The answer to one call; raises the host's typed error."""
        return self._conn.answered(self._conn.ask(name, args))

    def send(self, text: Text) -> bool:
        """Send a text, what the host forgets once more; whether each position's last vector came down as recorded."""
        session, have, same = self.call("open", *TERMS), 0, True
        for stop in range(text.prompt, len(text.up) // self._row + 1):
            while have < stop:
                up = text.up[have * self._row : stop * self._row]
                try:
                    down = self.call("step", session, next(self._numbers), have, 1, stop - have, up, b"", b"", b"", 1)
                except CacheMiss as miss:
                    have = miss.have
                except SessionUnknown:
                    session, have = self.call("open", *TERMS), 0
                else:
                    have = stop
            same &= alike(down, text.down[(stop - 1) * self._row : stop * self._row])
        self.call("close_session", session)
        return same

    def close(self) -> None:
        """Go away."""
        self._conn.close()


def alike(one: bytes, other: bytes) -> bool:
    """Whether two vectors of float32 are the same but for last bits."""
    a, b = array("f", one), array("f", other)
    return len(a) == len(b) and max(abs(x - y) for x, y in zip(a, b, strict=True)) <= CLOSE * max(map(abs, b))


def main() -> None:
    """Join, send, leave, until killed."""
    record = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    dice, texts = random.Random(int(sys.argv[2])), [Text.of(raw) for raw in record["texts"]]
    while True:
        try:
            peer = Light(dice.choice(record["addresses"]), record)
            print("joined", flush=True)
            for _ in range(dice.randint(1, 3)):
                print("same" if peer.send(dice.choice(texts)) else "another reply", flush=True)
            peer.close()
        except (LsplitError, EOFError, OSError) as err:
            print(f"{type(err).__name__}: {err}", flush=True)


if __name__ == "__main__":
    main()
