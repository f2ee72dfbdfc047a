"""The spelling of codecs: `base:option:option=value+stage+stage=value`, for example `int4:group=64+hadamard=64`."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ..errors import CodecError

_WORD = re.compile(r"([a-z][a-z0-9_-]*)(?:=(-?[a-z0-9.]+))?\Z")
LONGEST = 120  # characters


class Spec(NamedTuple):
    """A codec's spelling in parts; an option without a value has the value ""."""

    text: str
    base: str
    options: dict[str, str]
    stages: dict[str, str]
    given: Any = None  # calibrations by name, beside those of this machine

    def only(self, options: tuple[str, ...] = (), stages: tuple[str, ...] = ()) -> None:
        """Raise CodecError when there is an option or a stage that this codec does not take."""
        for kind, mark, given, known in (("option", ":", self.options, options), ("stage", "+", self.stages, stages)):
            for name in given:
                if name not in known:
                    takes = f"it takes {', '.join(mark + k for k in known)}" if known else f"it takes no {kind}"
                    raise CodecError(f"Unknown codec {self.text!r}: {self.base} has no {mark}{name}; {takes}.")

    def whole(self, name: str, value: str, low: int, high: int) -> int:
        """A whole number from low to high; raises CodecError."""
        if not re.fullmatch(r"[0-9]{1,6}", value) or not low <= int(value) <= high:
            raise CodecError(f"Unknown codec {self.text!r}: {name} takes a whole number from {low} to {high}.")
        return int(value)

    def number(self, name: str, value: str, low: float, high: float) -> float:
        """A number from low to high; raises CodecError."""
        try:
            found = float(value)
        except ValueError:
            found = float("nan")
        if not low <= found <= high:
            raise CodecError(f"Unknown codec {self.text!r}: {name} takes a number from {low:g} to {high:g}.")
        return found


def parse(text: str) -> Spec:
    """The parts of a spec string; raises CodecError for what is no spelling of a codec."""
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST:
        raise CodecError(f"Unknown codec {text!r:.80}: a codec is named by a short text such as 'int8:token'.")
    front, *stages = text.split("+")
    base, *options = front.split(":")
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", base):
        raise CodecError(f"Unknown codec {text!r}: it begins with a name such as fp16, int4 or uniform.")
    return Spec(text, base, _pairs(text, options), _pairs(text, stages))


def _pairs(text: str, parts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        match = _WORD.match(part)
        if match is None or match[1] in found:
            what = "twice the same part" if match else f"the part {part!r}"
            raise CodecError(f"Unknown codec {text!r}: {what} is no option=value or stage=value.")
        found[match[1]] = match[2] or ""
    return found
