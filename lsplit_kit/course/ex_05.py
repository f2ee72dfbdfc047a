"""Checks for chapter 05, a host of your own: a frame off the stream, the values in it, and what small bytes become."""

from __future__ import annotations

from rpyc.core import brine

from lsplit_kit.course.by_hand import weight
from lsplit_kit.course.calling import NotAttempted, Unfit, fit, idle
from lsplit_kit.course.checks import Wrong, call, exercise
from lsplit_kit.errors import FrameError

LIMIT, DEPTH, BOMB, TIMES = 1000, 5, 4000, 10


class _Asked(Exception):
    """The learner's code asked for more bytes than a frame may have."""


class _Pipe:
    """Bytes on their way; it gives as many as it is asked for, and counts."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at, self.most = raw, 0, 0

    def read(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.most = max(self.most, count)
        if count > LIMIT + 16:
            raise _Asked(f"{count:,}")
        if self.at + count > len(self.raw):
            raise EOFError("the other side hung up")
        self.at += count
        return self.raw[self.at - count : self.at]


def framed(body: bytes, z: int = 0, size: int | None = None, end: bytes = b"\n") -> bytes:
    """A frame around a body."""
    return (len(body) if size is None else size).to_bytes(4, "big") + bytes([z]) + body + end


def _refuses(answer: object, *args: object) -> str:
    """ "" when the learner's code raises FrameError, else what it did."""
    try:
        made = answer(*args)  # type: ignore[operator]
    except FrameError:
        return ""
    except (NotAttempted, Unfit, _Asked):
        raise
    except Exception as error:
        return f"raised {type(error).__name__}"
    return "was taken" if made is not None else "returned None"


@exercise(
    "05.1",
    title="A frame off the stream",
    hints=[
        'size = int.from_bytes(head[:4], "big"), where head = read(5); z = head[4]',
        "look at z and size before you read on: not 2 <= size <= limit is a FrameError, whatever would come",
        "body = read(size), then end = read(1): the end mark is not counted in size, and must be read all the same",
        "body[0] is a number, the kind; body[1:] is the value",
    ],
    minutes=6,
    difficulty=2,
)
def read_frame(answer: object) -> str | Wrong | None:
    """read_frame(read, limit): (kind, value) of the next frame; FrameError for one that may not come."""
    bodies = [b"\1\x51", b"\2" + bytes(range(256)) + b"\n", b"\3" + b"\n" * 4, b"\1" + b"x" * (LIMIT - 1)]
    pipe = _Pipe(b"".join(map(framed, bodies)))
    for place, body in enumerate(bodies):
        what = "the first frame" if not place else f"frame {place + 1} of the stream"
        try:
            made = call(answer, pipe.read, LIMIT)
        except _Asked as asked:
            if place:
                return Wrong(f"{what}: the frame before it was not read to its end", 3)
            return Wrong(f"{what}: your code asked for {asked} bytes of a frame of {len(body)}", 1)
        except FrameError:
            if place:
                return Wrong(f"{what} was refused; was the one before it read to its end?", 3)
            return Wrong(f"a right frame of {len(body)} bytes was refused", 1)
        except EOFError:
            return Wrong(f"{what}: your code asked for more bytes than came", 3)
        wrong = _read_wrong(made, body, what)
        if wrong:
            return wrong
    return _read_unkind(answer)


def _read_wrong(made: object, body: bytes, what: str) -> str | Wrong | None:
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        return f"{what}: a pair (kind, value) was expected, got {type(made).__name__}"
    kind, value = made
    if isinstance(kind, (bytes, bytearray, memoryview)):
        return Wrong(f"{what}: the kind is a number, got {type(kind).__name__}", 4)
    if not isinstance(value, (bytes, bytearray, memoryview)):
        return f"{what}: the value is bytes, got {type(value).__name__}"
    value = bytes(value)
    if (kind, value) == (body[0], body[1:]):
        return None
    if value == body:
        return Wrong(f"{what}: the kind stands in the value as well", 4)
    if value.endswith(b"\n") and value[:-1] in (body, body[1:]):
        return Wrong(f"{what}: the end mark is not part of the value", 3)
    if value == body[1:]:
        return Wrong(f"{what}: that is not its kind", 4)
    if body[1:].startswith(value):
        return Wrong(f"{what}: the value has {len(value)} bytes, of {len(body) - 1} that came", 3)
    return Wrong(f"{what}: these are not its kind and its value", 4)


def _read_unkind(answer: object) -> Wrong | None:
    """Frames that must be refused, and when."""
    for raw, what, hint in (
        (framed(b"", size=2**32 - 1), "a header that announces 4,294,967,295 bytes", 2),
        (framed(b"\1" * (LIMIT + 1)), f"a body of {LIMIT + 1} bytes, one more than the limit", 2),
        (framed(b"\1", size=1), "a body of 1 byte: a kind without a value", 2),
        (framed(b"", size=0), "a body of 0 bytes", 2),
        (framed(b"\1\x51", z=1), "a frame that says it is compressed", 2),
        (framed(b"\1\x51", end=b"x"), "a frame that does not end with 0a", 3),
    ):
        pipe = _Pipe(raw)
        try:
            did = _refuses(answer, pipe.read, LIMIT)
        except _Asked as asked:
            return Wrong(f"{what}: your code asked for {asked} bytes before it looked at the number", hint)
        if did:
            return Wrong(f"{what} {did}; FrameError was expected", hint)
        if hint == 2 and pipe.at > 5:
            return Wrong(f"{what} was refused, but after {pipe.at} bytes were read; the first 5 say enough", hint)
    return None


def _nested(levels: int) -> bytes:
    return b"\x10" * levels + b"\x51"


def _same(a: object, b: object) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


@exercise(
    "05.2",
    title="The values in it",
    hints=[
        "write value(at), which returns (the value whose tag is at `at`, the place behind it); it calls itself for "
        "the parts of a tuple and for the bytes of a text",
        "a slice that reaches beyond the end is just shorter, it raises nothing: compare lengths yourself",
        'int(digits) for an int in digits, raw.decode("utf-8") for a text; both count bytes, not characters; '
        "behind 08 stands one of the tags of bytes, and nothing else",
        "hand a depth on with every call, one more for a tuple; above 5 raise FrameError",
        "after the value: if the place behind it is not len(data), there are bytes that nobody asked for",
        "a tag that is not in the table is a FrameError, and so is a missing tag: look at `at` before data[at]",
    ],
    minutes=12,
    difficulty=4,
)
def parse(answer: object) -> str | Wrong | None:
    """parse(data): the one value in these bytes, by the table of tags; FrameError for anything else."""
    fit(answer, b"")
    for true, what, hint in (
        (1, "the int 1", 1), (-48, "the int -48", 1), (159, "the int 159", 1),
        (None, "None", 1), (True, "True", 1), (False, "False", 1), (b"", "bytes of length 0", 1),
        (b"a", "1 byte", 1), (b"\x51\x51\x51\x51", "4 bytes", 1), (b"hello", "5 bytes", 1),
        (b"x" * 255, "255 bytes", 1), (bytes(range(256)) * 2, "512 bytes", 1),
        (160, "the int 160", 3), (-1234567, "the int -1234567", 3), ("", "an empty text", 3),
        ("open", "the text 'open'", 3), ("Zoë €", "a text with letters of two and three bytes", 3),
        ((), "an empty tuple", 1), ((7,), "a tuple of 1", 1), ((1, (2, b"ab"), "x"), "a tuple in a tuple", 1),
        (tuple(range(9)), "a tuple of 9", 1), ((1, (8, (1, (None, "open", ("kv",), ())))), "a request", 1),
    ):  # fmt: skip
        try:
            made = call(lambda data: (answer(data),), brine.dump(true))  # type: ignore[operator]
        except FrameError as error:
            return Wrong(f"{what} was refused: {str(error)[:80]}", 5 if "behind" in str(error) else hint)
        except RecursionError:
            return Wrong(f"{what}: your code calls itself for ever; does the place move on?", 1)
        value = made[0]  # type: ignore[index]
        if value is None and true == 1:
            raise NotAttempted if idle(answer) else Unfit("your function returned None; is a `return` missing?")
        if not _same(value, true):
            return _parsed_wrong(value, true, what, hint)
    return _parse_unkind(answer)


def _parsed_wrong(value: object, true: object, what: str, hint: int) -> Wrong:
    if isinstance(value, list) and isinstance(true, tuple):
        return Wrong(f"{what} came out as a list", 1)
    if isinstance(value, tuple) and len(value) == 2 and _same(value[0], true):
        return Wrong(f"{what}: the place behind the value belongs to your helper; return the value alone", 1)
    if type(value) is not type(true):
        return Wrong(f"{what} came out as {type(value).__name__}, {type(true).__name__} was expected", hint)
    return Wrong(f"{what} came out as another {type(true).__name__}", hint)


def _parse_unkind(answer: object) -> Wrong | None:
    """Values that must be refused."""
    whole = (
        brine.dump((1, (8, "open", b"hello", 12345))), brine.dump(b"x" * 300), brine.dump(tuple(range(6))),
    )  # fmt: skip
    cut = [(one[:stop], f"a value cut off after {stop} of {len(one)} bytes", 2) for one in whole for stop in
           sorted({*range(1, 21), len(one) - 1}, reverse=True) if stop < len(one)]  # fmt: skip
    for data, what, hint in (
        (brine.dump(b"hello")[:-1], "bytes of length 5 of which 4 came", 2),
        *cut,
        (b"", "no byte at all", 6),
        (b"\x51\x51", "a value with a byte behind it", 5),
        (b"\x1b\x11\x51\x51", "a tag that is not in the table (1b)", 6),
        (b"\x08\x51", "a text without its bytes", 6),
        (b"\x08\x0b\xff\xff", "a text that is no UTF-8", 6),
        (b"\x08" * 5000, "5,000 tags of a text, one behind the other", 3),
        (b"\x16\x02ab", "an int whose digits are letters", 6),
        (_nested(DEPTH + 1), f"{DEPTH + 1} tuples in one another", 4),
        (_nested(5000), "5,000 tuples in one another", 4),
    ):
        did = _refuses(answer, data)
        if did:
            return Wrong(f"{what} {did}; FrameError was expected", hint)
    try:
        made = answer(_nested(DEPTH))  # type: ignore[operator]
    except FrameError:
        return Wrong(f"{DEPTH} tuples in one another were refused", 4)
    return None if _same(made, brine.load(_nested(DEPTH))) else Wrong(f"{DEPTH} tuples in one another went wrong", 4)


@exercise(
    "05.3",
    title="Small bytes, large objects",
    hints=[
        "every object of Python has a head: sys.getsizeof(b'ab') is far more than the 3 bytes that it is on the wire",
        "what costs the most for the least: a tuple around one value takes a single byte more on the wire",
        "brine.dump((b'ab',) * many) is many small objects; take as many as go into the size",
    ],
    minutes=4,
    difficulty=2,
)
def bomb(answer: object) -> str | Wrong | None:
    """bomb(size): at most `size` bytes of brine whose value takes at least ten times as many in memory."""
    for size in (BOMB, BOMB // 4):
        raw = call(answer, size)
        if not isinstance(raw, (bytes, bytearray)):
            return f"bytes were expected, got {type(raw).__name__}"
        if len(raw) > size:
            return Wrong(f"{len(raw):,} bytes, of at most {size:,}", 3)
        try:
            value = brine.load(bytes(raw))
        except RecursionError:
            return Wrong("brine itself gave up (RecursionError): nest the tuples less deep, and take several", 2)
        except Exception as error:
            return Wrong(f"brine cannot read these bytes ({type(error).__name__}); brine.dump makes readable ones", 3)
        times = weight(value) / size
        if times < TIMES:
            return Wrong(f"{size:,} bytes became {times:.1f} times as many", 1 if times < 5 else 2)
    return None
