"""A look at the tags of a frame before anything in it is built: small frames may become large objects."""

from __future__ import annotations

from rpyc.core import brine

# A call's arguments lie five levels down: (seq, (kind, (label, (None, name, (arguments), ())))).
MAX_TUPLE, MAX_DEPTH, MAX_ITEMS, MAX_TEXT, MAX_DIGITS = 16, 5, 64, 4096, 20

EMPTY = {
    brine.TAG_NONE[0],
    brine.TAG_TRUE[0],
    brine.TAG_FALSE[0],
    brine.TAG_EMPTY_STR[0],
    brine.TAG_EMPTY_TUPLE[0],
}
SMALL_INTS = {tag[0] for tag in brine.IMM_INTS_LOADER}
_BYTES = {brine.TAG_STR1[0]: 1, brine.TAG_STR2[0]: 2, brine.TAG_STR3[0]: 3, brine.TAG_STR4[0]: 4}
TUPLES = {brine.TAG_TUP1[0]: 1, brine.TAG_TUP2[0]: 2, brine.TAG_TUP3[0]: 3, brine.TAG_TUP4[0]: 4}
_L1, _L4 = brine.TAG_STR_L1[0], brine.TAG_STR_L4[0]
TEXT, INT, TUP_L1 = brine.TAG_UNICODE[0], brine.TAG_INT_L1[0], brine.TAG_TUP_L1[0]


class Refused(ValueError):
    """These bytes are not a value that may cross the wire."""


def walk(data: memoryview) -> None:
    """Raise Refused unless `data` is one value of None, bools, ints, short text, bytes and small tuples."""
    position, items, waiting = 0, 0, [1]  # waiting[d]: values still to come at depth d
    try:
        while waiting:
            if waiting[-1] == 0:
                waiting.pop()
                continue
            waiting[-1] -= 1
            items += 1
            if items > MAX_ITEMS:
                raise Refused(f"more than {MAX_ITEMS} values in one frame")
            tag, position = data[position], position + 1
            if tag in SMALL_INTS or tag in EMPTY:
                continue
            if tag in TUPLES or tag == TUP_L1:
                size = TUPLES.get(tag)
                if size is None:
                    size, position = data[position], position + 1
                if size > MAX_TUPLE or len(waiting) > MAX_DEPTH:
                    raise Refused(f"tuples of at most {MAX_TUPLE} values and {MAX_DEPTH} levels may cross")
                waiting.append(size)
            elif tag == TEXT:
                start, position = bytes_at(data, position + 1, data[position])
                if position - start > MAX_TEXT:
                    raise Refused(f"text of at most {MAX_TEXT} bytes may cross")
                bytes(data[start:position]).decode("utf-8")
            elif tag == INT:
                start, position = position + 1, position + 1 + data[position]
                digits = bytes(data[start:position])
                if len(digits) > MAX_DIGITS or not digits.removeprefix(b"-").isdigit():
                    raise Refused(f"ints of at most {MAX_DIGITS} digits may cross")
            else:
                _, position = bytes_at(data, position, tag)
    except (IndexError, UnicodeDecodeError):
        raise Refused("the frame is cut short or garbled") from None
    if position != len(data):
        raise Refused("the frame does not end where its value ends")


def bytes_at(data: memoryview, position: int, tag: int) -> tuple[int, int]:
    """Return start and end of the byte string whose tag was just read."""
    if tag == brine.TAG_EMPTY_STR[0]:
        return position, position
    if tag in _BYTES:
        size = _BYTES[tag]
    elif tag == _L1:
        size, position = data[position], position + 1
    elif tag == _L4:
        size, position = int.from_bytes(data[position : position + 4], "big"), position + 4
    else:
        raise Refused(f"values with tag {tag} do not cross")
    if position + size > len(data):
        raise Refused("the frame is cut short or garbled")
    return position, position + size
