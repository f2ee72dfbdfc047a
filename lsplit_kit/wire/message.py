"""The few messages that cross between the local side and a host, as tuples of ints, short strings and bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from ..errors import FrameError
from ..quantization import Encoded

PROTOCOL = "1.1"
MAX_TIMINGS = 4096  # steps whose durations a host keeps for its client
POLICIES = ("kv", "hidden", "none")
MODES = ("per_step", "lockstep")


def ints_to_wire(values: list[int]) -> bytes:
    """Small integers as little-endian int32."""
    return np.asarray(values, "<i4").tobytes()


def ints_from_wire(raw: bytes, what: str) -> list[int]:
    """Little-endian int32 back to a list; raises FrameError when the bytes are not a whole number of them."""
    if len(raw) % 4:
        raise FrameError(f"{what}: {len(raw)} bytes are not a whole number of int32 values.")
    return np.frombuffer(raw, "<i4").tolist()


@dataclass(frozen=True)
class Step:
    """One crossing up: new hidden vectors [B, T, d] that begin at position `start` of the session.

    rows: source row of every row when the batch was re-ordered since the last step; pads: left-pad count per row (with
    start 0); positions: empty (counted from the cache), b"p" (counted from the pads) or int32 values as given by hand;
    keep: how many of the last positions come down, 0 for all of them.
    """

    step_no: int
    start: int
    batch: int
    tokens: int
    payload: bytes
    rows: bytes = b""
    pads: bytes = b""
    positions: bytes = b""
    keep: int = 0

    def to_wire(self) -> tuple[int | bytes, ...]:
        """The fields in order, without empty optional ones at the end."""
        values = [getattr(self, f.name) for f in fields(self)]
        while len(values) > 5 and values[-1] in (b"", 0):
            values.pop()
        return tuple(values)

    @classmethod
    def from_wire(cls, values: tuple[object, ...]) -> Step:
        """Build a step from a peer's values; raises FrameError on a wrong count, type or range."""
        if not 5 <= len(values) <= 9:
            raise FrameError(f"A step has 5 to 9 fields, got {len(values)}.")
        for f, value in zip(fields(cls), values, strict=False):
            kind = bytes if f.name in ("payload", "rows", "pads", "positions") else int
            if type(value) is not kind:
                raise FrameError(f"Field {f.name} of a step must be {kind.__name__}, got {type(value).__name__}.")
            if kind is int and not 0 <= value < 2**31:  # type: ignore[operator]
                raise FrameError(f"Field {f.name} of a step is out of range.")
        return cls(*values)  # type: ignore[arg-type]

    def digest(self) -> bytes:
        """What the step says, but for its number: a repeated number must bring the same digest."""
        parts = hashlib.sha256(repr((*self.to_wire()[1:4], self.keep)).encode())
        for part in (self.payload, self.rows, self.pads, self.positions):
            parts.update(len(part).to_bytes(8, "little") + part)
        return parts.digest()


@dataclass(frozen=True)
class PictureStep:
    """One crossing up of a denoiser: position `start` in the run, the call's form where it changed, tensors' bytes."""

    step_no: int
    start: int
    form: bytes
    payload: bytes

    def to_wire(self) -> tuple[int | bytes, ...]:
        """The fields in order."""
        return (self.step_no, self.start, self.form, self.payload)

    @classmethod
    def from_wire(cls, values: tuple[object, ...]) -> PictureStep:
        """Build a step from a peer's values; raises FrameError on a wrong count, type or range."""
        if tuple(map(type, values)) != (int, int, bytes, bytes):
            raise FrameError("A denoiser's step is (step_no, start, form, payload).")
        if not all(0 <= number < 2**31 for number in values[:2]):  # type: ignore[operator]
            raise FrameError("A number of this step is out of range.")
        return cls(*values)  # type: ignore[arg-type]

    def digest(self) -> bytes:
        """What the step says, but for its number."""
        head = f"{self.start} {len(self.form)} ".encode()
        return hashlib.sha256(head + self.form + self.payload).digest()


@dataclass(frozen=True)
class WholeStep:
    """One question to a host that holds a whole model.

    The first of a session brings a prompt (token ids as int32, or a picture's text in UTF-8) and its options as JSON;
    for a reply each further one is empty and asks for the next token.
    """

    step_no: int
    form: bytes = b""
    payload: bytes = b""

    def to_wire(self) -> tuple[int | bytes, ...]:
        """The fields in order, the number alone where the others are empty."""
        return (self.step_no, self.form, self.payload) if self.form or self.payload else (self.step_no,)

    @classmethod
    def from_wire(cls, values: tuple[object, ...]) -> WholeStep:
        """Build a step from a peer's values; raises FrameError on a wrong count, type or range."""
        if tuple(map(type, values)) not in ((int,), (int, bytes, bytes)):
            raise FrameError("A step of a whole model is (step_no) or (step_no, form, payload).")
        if not 0 <= values[0] < 2**31:  # type: ignore[operator]
            raise FrameError("A number of this step is out of range.")
        return cls(*values)  # type: ignore[arg-type]

    def digest(self) -> bytes:
        """What the step says, but for its number."""
        return hashlib.sha256(f"{len(self.form)} ".encode() + self.form + self.payload).digest()


class Sent(NamedTuple):
    """One tensor of one frame, as the ledger counts it: its name, what crossed, and its bytes before the codec."""

    name: str
    encoded: Encoded
    tensor: int


class Open(NamedTuple):
    """The fixed terms of a session: cache policy (a denoiser's mode) and the codecs of both directions."""

    policy: str
    up: str
    down: str


class HostInfo(NamedTuple):
    """What a host says of itself in answer to `hello`."""

    protocol: str
    kit: str
    torch: str
    transformers: str
    model: str
    fingerprint: str
    start: int
    stop: int
    width: int
    dtype: str
    codecs: tuple[str, ...]
    max_frame: int
    max_tokens: int
    max_rows: int
    pid: int
    holds: tuple[int, int]


class Exchange(NamedTuple):
    """A step's answer and the bytes that both frames took on the wire (0 where there is no frame)."""

    payload: bytes
    frame_up: int
    frame_down: int
