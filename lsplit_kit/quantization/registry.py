"""The spec strings and what they name: `codec("int8:token").encode(tensor) -> Encoded -> .decode(...)`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..card import Card
from ..errors import CodecError, NonFiniteError
from .auto import is_auto
from .entropy import read_varint
from .spec import Spec, parse

if TYPE_CHECKING:
    from .calibration import Calibration


class Encoded(NamedTuple):
    """One tensor as it crosses: the codec's spec, the tensor's shape and the payload bytes."""

    spec: str
    shape: tuple[int, ...]
    payload: bytes

    def __repr__(self) -> str:
        return f"Encoded(spec={self.spec!r}, shape={self.shape}, payload=<{len(self.payload):,} bytes>)"


class Codec(Card):
    """Base of all codecs: subclasses turn a float tensor [..., d] into bytes and back.

    A subclass sets `bits_per_value` and writes `_pack`, `_unpack` and, where scales cross too, `payload_bytes`.
    """

    bits_per_value: float
    stateful = False  # whether a tensor's payload depends on the ones before it, so that a session needs `coder()`
    calibration: Calibration | None = None  # what it knows of the tensors before it sees one
    fixed = True  # whether a tensor's payload has as many bytes as its shape says, whatever the values

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def _card(self) -> tuple[str, dict[str, object]]:
        # doubling d tells what a value costs apart from what a row costs (its scale)
        row, two = self.payload_bytes((1, 1, 1024)), self.payload_bytes((1, 1, 2048))
        rows: dict[str, object] = {"bits per value": f"{self.bits_per_value:g}", "scale bytes per row": 2 * row - two}
        if not self.fixed:
            rows = {"bits per value": "as many as the values need"}
        elif 8 * two > 2048 * self.bits_per_value + 8 * (2 * row - two):  # a scale for each group
            rows = {"bits per value": f"{8 * two / 2048:g}, scales included"}
        return f"codec {self.spec!r}", rows

    def payload_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a tensor of this shape costs, scales included; at most so many where it is not `fixed`."""
        return math.ceil(math.prod(shape) * self.bits_per_value / 8)

    def coder(self) -> Codec:
        """What one session encodes, or decodes, one tensor after the other with."""
        return self

    def again(self, encoded: Encoded, dtype: torch.dtype) -> Tensor:
        """The tensor just encoded, as the other side will have it."""
        return self.decode(encoded, dtype)

    @property
    def kept(self) -> int:
        """Bytes of what is remembered."""
        return 0

    def remembered(self) -> list[Tensor]:
        """The tensors of this session that the next one is predicted from, newest first; none where none is."""
        return []

    def resume(self, past: Sequence[Tensor]) -> None:
        """Go on where another session ended: `past` is what its coder had `remembered`; raises CodecError."""
        if past:
            raise CodecError(f"{self.spec} predicts nothing, so it has no past to go on from.")

    def length(self, raw: bytes, at: int, shape: tuple[int, ...]) -> int:
        """Bytes of the tensor's payload that begins at `at`; one that is not `fixed` says so itself, or CodecError."""
        if self.fixed or not math.prod(shape):
            return self.payload_bytes(shape)
        size, start = read_varint(raw, at)
        return start - at + size

    def encode(self, tensor: Tensor) -> Encoded:
        """Encode a float tensor [..., d]; raises NonFiniteError on NaN or infinity."""
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise CodecError(f"{self.spec}: expected a float tensor, got {_kind(tensor)}; cast it first.")
        if tensor.dim() == 0:
            raise CodecError(f"{self.spec}: expected a tensor of at least one dimension, got a scalar.")
        tensor = tensor.detach()
        check_finite(tensor, "the tensor to encode")
        return Encoded(self.spec, tuple(tensor.shape), self._pack(tensor.cpu().contiguous()))

    def decode(self, encoded: Encoded, dtype: torch.dtype = torch.float32) -> Tensor:
        """Decode into a new tensor of `dtype`; raises CodecError where payload, shape and spec disagree."""
        if encoded.spec != self.spec:
            raise CodecError(f"This codec is {self.spec}, the payload is {encoded.spec}; decode with its own codec.")
        expected = self.payload_bytes(encoded.shape)
        got = len(encoded.payload) if type(encoded.payload) is bytes else None
        if got is None or got > expected or (self.fixed and got != expected):
            said = _kind(encoded.payload) if got is None else got
            most = "" if self.fixed else "at most "
            raise CodecError(f"{self.spec}: shape {encoded.shape} needs {most}{expected} bytes, got {said}.")
        tensor = self._unpack(encoded.payload, encoded.shape)
        check_finite(tensor, "the received tensor")
        return tensor.to(dtype)

    def _pack(self, tensor: Tensor) -> bytes:
        raise NotImplementedError

    def _unpack(self, payload: bytes, shape: tuple[int, ...]) -> Tensor:
        raise NotImplementedError


def check_finite(tensor: Tensor, what: str) -> None:
    """Raise NonFiniteError if any value is NaN or infinite."""
    if math.isfinite(float(tensor.sum())):  # the usual case, in half the time: no such value leaves a sum finite
        return
    if not bool(torch.isfinite(tensor).all()):
        raise NonFiniteError(f"NaN or infinity in {what}, shape {tuple(tensor.shape)}: nothing was sent or used.")


def _kind(value: object) -> str:
    return f"{value.dtype}" if isinstance(value, Tensor) else type(value).__name__


Maker = Callable[[Spec], Codec]
_FAMILIES: dict[str, Maker] = {}
_PLAIN: list[str] = []  # names of the codecs without options


def register(name: str) -> Callable[[type[Codec]], type[Codec]]:
    """Class decorator: make a codec without options known under the spec `name`."""

    def add(cls: type[Codec]) -> type[Codec]:
        def make(spec: Spec) -> Codec:
            spec.only()
            return cls(spec.text)

        _FAMILIES[name] = make
        _PLAIN.append(name)
        return cls

    return add


def family(*names: str) -> Callable[[Maker], Maker]:
    """Function decorator: make a codec of its parsed spec, for specs that begin with one of `names`."""

    def add(make: Maker) -> Maker:
        _FAMILIES.update(dict.fromkeys(names, make))
        return make

    return add


def specs() -> list[str]:
    """Specs to choose from: codecs without options, and usual ones of the families; many more can be spelled."""
    from . import casts, integers, klt, uniform  # noqa: F401 (importing registers them)

    return list(dict.fromkeys((*casts.USUAL, *integers.USUAL, *uniform.USUAL, *_PLAIN)))


def bases() -> list[str]:
    """What a spec may begin with."""
    specs()
    return list(dict.fromkeys([*_PLAIN, *_FAMILIES]))


def codec(spec: str, given: Mapping[str, Calibration] | None = None) -> Codec:
    """The codec named by `spec`; raises CodecError that says what is wrong with it.

    given: calibrations by name that may be used beside those of this machine.
    """
    spec = spec if isinstance(spec, str) else repr(spec)
    return _made(spec, given) if given else _codec(spec)


@lru_cache(maxsize=256)
def _codec(spec: str) -> Codec:
    return _made(spec)


def _made(spec: str, given: Mapping[str, Calibration] | None = None) -> Codec:
    known = bases()
    if spec in _PLAIN:  # whatever its name is made of
        return _FAMILIES[spec](Spec(spec, spec, {}, {}))
    parsed = parse(spec)._replace(given=given)
    if is_auto(spec):
        raise CodecError(f"{spec!r} names a pair of codecs for a model, not one codec; give it to split(codec=...).")
    if parsed.base not in _FAMILIES:
        raise CodecError(f"Unknown codec {spec!r}; known: {', '.join(known)}.")
    return _FAMILIES[parsed.base](parsed)
