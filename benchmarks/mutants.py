"""Frames that a host should never see: mutated good ones, and well-formed calls whose fields are of other kinds."""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from rpyc.core import brine, consts

from lsplit_kit.remote.stream import FastStream
from lsplit_kit.remote.token import prove_to_host
from lsplit_kit.wire.message import PROTOCOL, Step, ints_to_wire

HELLO = (PROTOCOL, "0", "0", "0", "", -1, -1, "")
WIDTH, SECONDS = 64, 10.0
INTS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**63, -(2**63), 10**19, 10**20 - 1, True, False)
TEXTS = ("", "kv", "hidden", "none", "fp32", "int8:token", "int4:group=0", "uniform:step=0.1+ans", "uniform:step=nan",
         "klt:cal=" + "0" * 32, "+" * 400, "x" * 4096, "\x00\x1b[2J\r\n", "\u202eevil", "int8:token+" * 30, "Ⅷ",
         "int٣")  # fmt: skip
BYTES = (b"", b"\0", b"\xff" * 3, b"\xff" * 64, bytes(4096), ints_to_wire([-1, 2**31 - 1]), b"\x80\x04.", b"{" * 999)


class Attacker:
    """A peer that holds the token (or over `wrap` a certificate) and then does as it likes."""

    def __init__(
        self, where: tuple[str, int], token: bytes | None, wrap: Callable[[socket.socket], socket.socket] | None = None
    ) -> None:
        sock = socket.create_connection(where, SECONDS)
        self.stream = FastStream(wrap(sock) if wrap is not None else sock, SECONDS)
        if token is not None:
            prove_to_host(self.stream, token, SECONDS)

    def hello(self) -> None:
        """Agree, as a client does."""
        self.stream.write(named("hello", *HELLO))
        told(self.stream)

    def close(self) -> None:
        """Go away."""
        self.stream.close()


def frame(content: bytes) -> bytes:
    """One frame."""
    return len(content).to_bytes(4, "big") + b"\0" + content + b"\n"


def named(name: object, *args: object) -> bytes:
    """One call; a surrogate, which no well-meaning library writes, is written as it is."""
    call = (7, (consts.HANDLE_CALLATTR, (consts.LABEL_VALUE, (None, name, args, ()))))
    return frame(bytes([consts.MSG_REQUEST]) + dumped(call))


def dumped(value: object) -> bytes:
    """As brine writes it, but text may hold half a surrogate pair."""
    if type(value) is tuple:
        return brine.TAG_TUP_L1 + bytes([len(value)]) + b"".join(map(dumped, value))
    if type(value) is str:
        return brine.TAG_UNICODE + brine.dump(value.encode("utf-8", "surrogatepass"))
    return brine.dump(value)


def told(stream: FastStream) -> str:
    """What came: "answer", an error's code, "end" of the connection, or "silence" where nothing does in time."""
    try:
        size = int.from_bytes(stream.read(5)[:4], "big")
        content = bytes(stream.read(size + 1)[:-1])
    except EOFError as err:
        return "silence" if "stopped" in str(err) else "end"
    value = brine.load(content[1:])[1]
    return "answer" if content[0] == consts.MSG_REPLY else str(value[0])


def good(chance: random.Random) -> list[bytes]:
    """A short conversation as a client would hold it."""
    tokens = chance.randint(1, 5)
    step = Step(1, 0, 1, tokens, torch.ones(1, tokens, WIDTH).numpy().tobytes())
    last = Step(2, tokens, 1, 1, torch.ones(1, 1, WIDTH).numpy().tobytes(), positions=chance.choice((b"", b"p")))
    policy = chance.choice(("kv", "hidden"))
    return [
        named("hello", *HELLO), named("open", policy, "fp32", "fp32"), named("step", 1, *step.to_wire()),
        named("step", 1, *last.to_wire()), named("timings"), named("close_session", 1),
    ]  # fmt: skip


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """One to four changes: a bit, a byte, a cut, something put in; near the front, where the form is, as a rule."""
    data = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(min(len(data), 64) if chance.random() < 0.8 else len(data)) if data else 0
        match chance.randrange(4):
            case 0 if data:
                data[at] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[at] = chance.randrange(256)
            case 2:
                del data[at : at + chance.randint(1, 9)]
            case _:
                data[at:at] = chance.randbytes(chance.randint(1, 9))
    return bytes(data)


def odd(chance: random.Random, depth: int = 0) -> Any:
    """A value of any kind that can be written, and some that may not cross."""
    match chance.randrange(9):
        case 0 | 1 | 2:
            return chance.choice(INTS)
        case 3 | 4:
            return chance.choice(TEXTS) if chance.random() < 0.8 else "\ud800" * chance.randint(1, 9)
        case 5 | 6:
            return chance.choice(BYTES)
        case 7 if depth < 6:
            return tuple(odd(chance, depth + 1) for _ in range(chance.randint(0, 3)))
        case _:
            return chance.choice((None, 1.5, float("nan"), 10**40, frozenset((1,)), Ellipsis))


def strange(chance: random.Random) -> bytes:
    """A well-formed call of the kit in which one field or more is another than it should be, or of another size."""
    tokens = chance.randint(1, 4)
    payload = torch.ones(1, tokens, WIDTH).numpy().tobytes()
    calls: dict[str, list[Any]] = {
        "hello": list(HELLO),
        "open": ["kv", "fp32", "fp32"],
        "step": [1, chance.randint(0, 9), 0, 1, tokens, payload, b"", b"", b"", 0],
        "calibrate": [chance.randbytes(200)],
        "close_session": [1],
        "timings": [],
        "health": [],
    }
    name = chance.choices(list(calls), (2, 3, 8, 1, 1, 1, 1))[0]
    args = calls[name]
    for _ in range(chance.randint(1, 2)):
        match chance.randrange(5):
            case 0 if args:
                del args[chance.randrange(len(args))]
            case 1:
                args.insert(chance.randint(0, len(args)), odd(chance))
            case _ if args:
                args[chance.randrange(len(args))] = odd(chance)
    return named(name if chance.random() < 0.97 else odd(chance), *args[:16])


def fuzz(
    attacker: Callable[[], Attacker],
    kind: str,
    count: int,
    seed: int,
    beside: Callable[[int], object] = lambda number: None,
) -> Counter[str]:
    """Send so many bad frames ("bytes" or "fields") and count what was heard; a connection is used until it ends.

    beside: called before each frame, with its number.
    """
    chance, heard = random.Random(seed), Counter[str]()
    peer: Attacker | None = None
    for number in range(count):
        beside(number)
        if peer is None:
            peer = attacker()
            if kind == "fields" or chance.random() < 0.8:
                peer.hello()
                peer.stream.write(named("open", "kv", "fp32", "fp32"))
                told(peer.stream)
        bad = mutated(chance.choice(good(chance)), chance) if kind == "bytes" else strange(chance)
        try:
            # what cuts a frame short, or says that more will come, is followed by the end of what we say
            peer.stream.write(bad)
            short = len(bad) < 6 or len(bad) < 6 + int.from_bytes(bad[:4], "big")
            if short:
                peer.stream.sock.shutdown(socket.SHUT_WR)
            said = told(peer.stream)
        except (EOFError, OSError):
            said = "end"
        heard[said] += 1
        over = len(bad) != 6 + int.from_bytes(bad[:4], "big")
        if said in ("end", "silence") or over:
            peer.close()
            peer = None
    if peer is not None:
        peer.close()
    return heard
