"""Wrong answers of chapter 05 with what is said to them, and right ones in other clothes."""

import hashlib
import hmac
import io
import runpy
import struct
from pathlib import Path

from rpyc.core import brine

from lsplit_kit.errors import CacheMiss, FrameError, StepRefused
from lsplit_kit.remote.brinewalk import Refused, walk

SOLVED = runpy.run_path(
    str(Path(__file__).resolve().parent.parent.parent / "tutorials" / "solutions" / "05_a_host_of_your_own.py")
)
SHA = hashlib.sha256


def frame(
    order="big", least=2, more=0, z=True, ends=True, mark=b"\n", when="first", of=lambda body: (body[0], body[1:])
):
    """A read_frame of 05.1 with one part of it done in another way."""

    def wrong(read, limit):
        head = read(5)
        size = int.from_bytes(head[:4], order)
        bad = (z and head[4]) or not least <= size <= limit + more
        if bad and when == "first":
            raise FrameError("no")
        body = read(size)
        if ends and read(1) != mark:
            raise FrameError("no end")
        if bad:
            raise FrameError("no")
        return of(body)

    return wrong


def value_error(read, limit):
    try:
        return SOLVED["read_frame"](read, limit)
    except FrameError:
        raise ValueError from None


def end_inside(read, limit):
    size, z = struct.unpack(">IB", read(5))
    if z or not 2 <= size <= limit:
        raise FrameError("no")
    body = read(size + 1)
    return body[0], body[1:]


def by_struct(read, limit):
    size, z = struct.unpack("!IB", read(5))
    if z != 0 or size not in range(2, limit + 1):
        raise FrameError("no")
    kind, value, end = read(1), read(size - 1), read(1)
    if end != b"\n":
        raise FrameError("no end")
    return [ord(kind), bytearray(value)]


def forgot(read, limit):
    made = SOLVED["read_frame"](read, limit)  # noqa: F841


def library(data):
    return brine.load(data)


def guarded(data):
    """The library's reader with every error made a FrameError, which still lets some bytes in."""
    try:
        return brine.load(data)
    except Exception:
        raise FrameError("no") from None


def behind(data):
    """As the solution, but bytes behind the value are let in."""
    for stop in range(len(data), 0, -1):
        try:
            return SOLVED["parse"](data[:stop])
        except FrameError:
            continue
    raise FrameError("no")


def changed(change):
    """A parse of 05.2 that makes something else of what it read."""
    return lambda data: change(SOLVED["parse"](data))


def lists(value):
    return [lists(part) for part in value] if isinstance(value, tuple) else value


def raises(error, when=FrameError):
    def wrong(data):
        try:
            return SOLVED["parse"](data)
        except when:
            raise error from None

    return wrong


def too_strict(data):
    found = SOLVED["parse"](data)
    if data.startswith(b"\x10" * 5):
        raise FrameError("too deep")
    return found


def one_level_more(data):
    return brine.load(data) if data == b"\x10" * 6 + b"\x51" else SOLVED["parse"](data)


def walked(data):
    """The kit's walk, then the library."""
    try:
        walk(memoryview(data))
    except Refused as why:
        raise FrameError(str(why)) from None
    return brine.load(data)


def mac(token, *parts):
    return hmac.new(token, b"".join(parts), SHA).digest()


def door(
    said=lambda t, nc, nh: nh + mac(t, b"host", nc, nh), right=lambda t, nc, nh: mac(t, b"client", nc, nh),
    same=hmac.compare_digest, fixed=None,
):  # fmt: skip
    """A let_in of 05.4 that sends, expects or compares something else."""

    def wrong(token, nc, draw, ask):
        nh = fixed or draw()
        return same(ask(said(token, nc, nh)), right(token, nc, nh))

    return wrong


def asks_again(token, nc, draw, ask):
    return SOLVED["let_in"](token, nc, draw, lambda message: (ask(message), ask(message))[1])


def the_proof(token, nc, draw, ask):
    return ask((nh := draw()) + mac(token, b"host", nc, nh))


def one_by_one(a, b):
    return len(a) == len(b) and sum(x ^ y for x, y in zip(a, b, strict=True)) == 0


def steady(keep=lambda start, payload: (start, payload), old=True, note="after", other=True):
    """A Steady of 05.5 that remembers something else, or at another time."""

    class Wrong:
        def __init__(self, host):
            self.host, self.last = host, (-1, None, None)

        def step(self, number, start, payload):
            came = keep(start, payload)
            if number == self.last[0]:
                if came == self.last[1]:
                    return self.last[2]
                if other:
                    raise StepRefused("other contents")
            if old and number < self.last[0]:
                raise StepRefused("too late")
            if note == "before":
                self.last = (number, came, None)
            out = self.host.step(start, payload)
            if note != "never":
                self.last = (number, came, out)
            return out

    return Wrong


class by_contents:  # noqa: N801
    """Knows steps by what they bring, whatever their number."""

    def __init__(self, host):
        self.host, self.seen = host, {}

    def step(self, number, start, payload):
        if payload not in self.seen:
            self.seen[payload] = self.host.step(start, payload)
        return self.seen[payload]


class swallows(steady()):  # noqa: N801
    """Answers a CacheMiss with nothing."""

    def step(self, number, start, payload):
        try:
            return super().step(number, start, payload)
        except CacheMiss:
            return b""


class all_numbers(steady()):  # noqa: N801
    """Keeps every answer: right, though it takes memory for what nobody asks for."""

    def __init__(self, host):
        super().__init__(host)
        self.made = {}

    def step(self, number, start, payload):
        digest = SHA(b"%d " % start + payload).hexdigest()
        if self.made and number < max(self.made):
            raise StepRefused("too late")
        if number in self.made:
            if self.made[number][0] != digest:
                raise StepRefused("other contents")
            return self.made[number][1]
        self.made[number] = digest, self.host.step(start, payload)
        return self.made[number][1]


def forget(
    order=lambda p: -p.idle, busy=True, empty=True, limit=True, quota=True, fresh=True, others=False,
    of=lambda p: p.name,
):  # fmt: skip
    """A to_forget of 05.6 with one of its rules left out or another."""

    def wrong(places, owner, most, share):
        total, own = sum(p.size for p in places), sum(p.size for p in places if p.owner == owner)
        gone = []
        for p in sorted(places, key=order):
            mine = p.owner == owner
            over = (limit and total > most) or (quota and own > share and (mine or others))
            if not over or (busy and p.busy) or (empty and not p.size):
                continue
            gone.append(of(p))
            if fresh:
                total, own = total - p.size, own - p.size * mine
        return gone

    return wrong


def in_two_rounds(places, owner, limit, quota):
    """The quota first, then the limit: more goes than has to."""
    places = sorted(places, key=lambda p: -p.idle)
    usable = [p for p in places if p.size and not p.busy]
    gone, own = [], sum(p.size for p in places if p.owner == owner)
    for p in usable:
        if p.owner == owner and own > quota:
            gone.append(p)
            own -= p.size
    total = sum(p.size for p in places if p not in gone)
    for p in usable:
        if p not in gone and total > limit:
            gone.append(p)
            total -= p.size
    return {p.name for p in gone}


WRONG = [
    ("05.1", 12, "a function was expected", 0),
    ("05.1", frame(order="little"), "a right frame of 2 bytes was refused", 1),
    ("05.1", frame(order="little", when="last"), "bytes of a frame of 2", 1),
    ("05.1", frame(ends=False), "was the one before it read to its end?", 3),
    ("05.1", frame(ends=False, when="last", least=0), "the frame before it was not read to its end", 3),
    ("05.1", frame(when="last"), "asked for 4,294,967,295 bytes before it looked", 2),
    ("05.1", frame(more=1), "one more than the limit was taken", 2),
    ("05.1", frame(least=1, of=lambda body: (body[0], body[1:])), "a kind without a value was taken", 2),
    ("05.1", frame(z=False), "says it is compressed was taken", 2),
    ("05.1", frame(of=lambda body: (body[:1], body[1:])), "the kind is a number, got bytes", 4),
    ("05.1", frame(of=lambda body: (body[0], body)), "the kind stands in the value as well", 4),
    ("05.1", frame(of=lambda body: (body[0], body[1:-1])), "the value has 0 bytes, of 1", 3),
    ("05.1", frame(of=lambda body: body), "a pair (kind, value) was expected, got bytes", 0),
    ("05.1", frame(of=lambda body: (body[0], body[1:].hex())), "the value is bytes, got str", 0),
    ("05.1", frame(of=lambda body: (2, body[1:])), "that is not its kind", 4),
    ("05.1", end_inside, "the end mark is not part of the value", 3),
    ("05.1", lambda read, limit: (1, frame(ends=False)(read, limit)[1]), "was the one before it read to its end?", 3),
    ("05.1", value_error, "raised ValueError; FrameError was expected", 2),
    ("05.1", forgot, "is a `return` missing", 0),
    ("05.2", 12, "a function was expected", 0),
    ("05.2", library, "was taken; FrameError was expected", 2),
    ("05.2", guarded, "of which 4 came was taken", 2),
    ("05.2", raises(IndexError()), "raised IndexError; FrameError was expected", 2),
    ("05.2", behind, "a value with a byte behind it was taken", 5),
    ("05.2", changed(lists), "an empty tuple came out as a list", 1),
    ("05.2", changed(lambda v: (v, 1)), "return the value alone", 1),
    ("05.2", changed(lambda v: v.encode() if isinstance(v, str) else v), "came out as bytes, str was expected", 3),
    ("05.2", changed(lambda v: v + 48 if type(v) is int and -49 < v < 160 else v), "came out as another int", 1),
    ("05.2", changed(lambda v: v if v is not None else False), "None came out as bool", 1),
    ("05.2", changed(lambda v: v.decode("latin-1") if isinstance(v, bytes) and not v else v), "came out as str", 1),
    (
        "05.2",
        changed(lambda v: str(v).encode() if type(v) is int and v > 159 else v),
        "the int 160 came out as bytes",
        3,
    ),
    ("05.2", too_strict, "5 tuples in one another were refused", 4),
    ("05.2", one_level_more, "6 tuples in one another was taken", 4),
    ("05.2", raises(RecursionError()), "raised RecursionError", 2),
    ("05.2", lambda data: SOLVED["parse"](data + b"\x51"), "the int 1 was refused: bytes behind", 5),
    ("05.3", lambda size: "x" * size, "bytes were expected, got str", 0),
    ("05.3", lambda size: brine.dump(b"x" * (size - 10)), "became 1.0 times as many", 1),
    ("05.3", lambda size: brine.dump((b"abcdef",) * (size // 9)), "times as many", 2),
    ("05.3", lambda size: brine.dump((b"ab",) * size), "of at most 4,000", 3),
    ("05.3", lambda size: b"\x10" * (size - 1) + b"\x51", "brine itself gave up", 2),
    ("05.3", lambda size: b"\xff" * size, "brine cannot read these bytes", 3),
    ("05.4", door(said=lambda t, nc, nh: nh + t), "the token itself crossed", 1),
    ("05.4", door(said=lambda t, nc, nh: nh + t.hex().encode()), "the token itself crossed", 1),
    ("05.4", door(said=lambda t, nc, nh: nh + SHA(b"host" + nc + nh).digest()), "a hash without the token", 1),
    ("05.4", door(said=lambda t, nc, nh: nh + mac(t, nc, nh)), "does not say who made it", 3),
    ("05.4", door(said=lambda t, nc, nh: nh + mac(t, b"host", nh)), "about your own random bytes alone", 1),
    ("05.4", door(said=lambda t, nc, nh: nh + mac(t, b"host", nc)), "about the peer's random bytes alone", 2),
    ("05.4", door(said=lambda t, nc, nh: nh + mac(t, b"host", nh, nc)), "come first in the proof", 1),
    ("05.4", door(said=lambda t, nc, nh: nh + mac(t, b"client", nc, nh)), "the peer has to make", 3),
    ("05.4", door(said=lambda t, nc, nh: nh + mac(t, b"host", nc, nh).hex().encode()), "crosses as text", 1),
    ("05.4", door(said=lambda t, nc, nh: mac(t, b"host", nc, nh) + nh), "does not begin with the random bytes", 1),
    ("05.4", door(said=lambda t, nc, nh: nh), "48 bytes were expected", 1),
    ("05.4", door(fixed=bytes(16)), "no random bytes were drawn", 2),
    ("05.4", door(right=lambda t, nc, nh: mac(t, b"host", nc, nh)), "holds the token was sent away", 4),
    ("05.4", door(same=lambda a, b: True), "a peer with another token was let in", 4),
    ("05.4", door(same=lambda a, b: hmac.compare_digest(a, b[: len(a)])), "a peer that says nothing was let in", 4),
    ("05.4", door(same=lambda a, b: hmac.compare_digest(a[:8], b[:8])), "the first half of the proof was let in", 4),
    ("05.4", door(same=lambda a, b: len(a) == 32), "was let in", 4),
    ("05.4", door(same=lambda a, b: a == b), "stops at the first byte that differs", 4),
    ("05.4", door(same=lambda a, b: b == a), "stops at the first byte that differs", 4),
    ("05.4", asks_again, "ask was called more than once", 1),
    ("05.4", lambda token, nc, draw, ask: False, "nothing was sent", 1),
    ("05.4", the_proof, "True or False was expected", 4),
    ("05.5", steady(note="never"), "the body ran a second time for it", 1),
    ("05.5", steady(keep=lambda start, payload: start), "step 2 with another payload was answered", 3),
    ("05.5", steady(keep=lambda start, payload: payload), "step 2 with another start was answered", 3),
    ("05.5", steady(other=False), "step 2 with another payload was answered", 3),
    ("05.5", steady(old=False), "step 1 after step 2 was answered", 3),
    ("05.5", steady(note="before"), "step 4 with a replay from 0, after the CacheMiss raised StepRefused", 4),
    ("05.5", by_contents, "step 2 with another payload was answered", 3),
    ("05.5", swallows, "a step above what it has was answered; CacheMiss was expected", 4),
    ("05.5", lambda host: steady(), "calling your class must build a host", 0),
    ("05.5", lambda host: io.BytesIO(), "no method step", 0),
    ("05.5", 3, "a function was expected", 0),
    ("05.6", forget(order=lambda p: p.idle), "not the longest idle first", 1),
    ("05.6", forget(order=lambda p: -p.size, fresh=False), "more is forgotten than has to be", 2),
    ("05.6", forget(fresh=False), "more is forgotten than has to be", 2),
    ("05.6", forget(limit=False), "too little is forgotten", 1),
    ("05.6", forget(quota=False), "too little is forgotten", 3),
    ("05.6", forget(others=True), "somebody else's session pays for it", 3),
    ("05.6", forget(busy=False), "a session with a step under way is forgotten", 4),
    ("05.6", forget(empty=False), "a session of 0 bytes is forgotten", 4),
    ("05.6", lambda places, owner, limit, quota: [p.name for p in places], "all fits", 2),
    ("05.6", forget(of=lambda p: p.owner), "names of sessions were expected", 0),
    ("05.6", lambda places, owner, limit, quota: "a1", "a list of names was expected, got str", 0),
    ("05.6", lambda places, owner, limit, quota: 3, "a list of names was expected, got int", 0),
]
RIGHT = [
    ("05.1", by_struct),
    ("05.1", frame(of=lambda body: (body[0], memoryview(body)[1:]))),
    ("05.2", walked),
    ("05.3", lambda size: bytearray(SOLVED["bomb"](size))),
    ("05.3", lambda size: b"\x14" + bytes([size // 101 - 1]) + (b"\x10" * 100 + b"\x51") * (size // 101 - 1)),
    ("05.4", door(same=one_by_one)),
    ("05.4", door(same=lambda a, b: hmac.compare_digest(b, bytes(a)))),
    ("05.5", steady()),
    ("05.5", all_numbers),
    ("05.6", forget()),
    ("05.6", forget(of=lambda p: p)),
    ("05.6", lambda *given: set(SOLVED["to_forget"](*given))),
]
