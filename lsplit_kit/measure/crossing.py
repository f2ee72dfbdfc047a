"""One crossing from near: its values after the codec, one vector of them, its largest channels, its first bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import CodecError, LsplitError
from ..quantization import Codec, Encoded
from ..quantization import codec as codec_of
from ..split.tensor_bytes import from_bytes, whole_from_bytes
from ..wire.view import begun_anew

if TYPE_CHECKING:
    from ..wire.tap import Crossing

Past = dict[tuple[object, ...], tuple[int, Codec, Tensor]]
HEAD, LARGEST = 48, 6  # payload bytes, and channels, that a look names


@dataclass(frozen=True)
class Look:
    """What one crossing carries.

    vectors: how many its tensor has (0: none); at: which one `values` is, and `place` says it in words; unit: what one
    value of it is; largest: pairs (which, value), by magnitude; head: the payload's first bytes; why: why there are no
    values, if so.
    """

    index: int
    crossing: Crossing
    vectors: int = 0
    at: int = 0
    place: str = ""
    values: tuple[float, ...] = ()
    largest: tuple[tuple[int, float], ...] = ()
    head: bytes = b""
    why: str = ""
    unit: str = "channel"


def decoded(crossings: Sequence[Crossing], index: int, past: Past | None = None) -> Tensor:
    """The values of one crossing as the other side has them; raises CodecError for a control frame.

    A codec that predicts is followed through the crossings before this one; past: a dict that remembers, for these
    crossings, how far that was done.
    """
    asked = crossings[index]
    kind, _, dtype = asked.codec.partition(":")
    if not asked.codec:
        raise CodecError("A control frame carries no tensor.")
    if kind in ("raw", "whole"):
        number = getattr(torch, dtype, None)
        if not isinstance(number, torch.dtype):
            raise CodecError(f"{asked.codec}: no such number format.")
        if kind == "whole":
            return whole_from_bytes(asked.data, 0, number, asked.shape)[0]
        return from_bytes(asked.data, number, asked.shape)
    coder, line = codec_of(asked.codec), _line(asked)
    if not coder.stateful:
        return coder.decode(Encoded(asked.codec, asked.shape, asked.data))
    past = {} if past is None else past
    last, running, found = past.pop(line, (-1, coder.coder(), None))  # not left half done where one cannot be read
    if found is None or last > index:
        last, running = -1, coder.coder()
    for k in range(last + 1, index + 1):
        c = crossings[k]
        if _line(c) == line:
            running = begun_anew(c, crossings[:k]) if c.kind == "replay" else running
            found = running.decode(Encoded(c.codec, c.shape, c.data))
    assert found is not None
    past[line] = (index, running, found)
    return found


def _line(c: Crossing) -> tuple[object, ...]:
    return c.session, c.name, c.direction, c.codec


def look(crossings: Sequence[Crossing], index: int, at: int | None = None, past: Past | None = None) -> Look:
    """Look at one crossing, and in it at one vector (None: the last); `at` is clipped. past: as in `decoded`.
    Raises IndexError.

    The vectors of a tensor [B, T, d] are its rows' positions, those of a picture's [B, C, h, w] its rows' channels.
    """
    c = crossings[index]
    head = c.data[:HEAD]
    try:
        values = decoded(crossings, index, past)
    except LsplitError as error:
        return Look(index, c, head=head, why=str(error))
    outer = values.shape[:2] if values.dim() > 3 else values.shape[:-1]
    vectors = math.prod(outer)
    if not values.numel():
        return Look(index, c, head=head, why="The tensor has no values.")
    at = vectors - 1 if at is None else min(max(at, 0), vectors - 1)
    vector = values.reshape(vectors, -1)[at].float()
    order = vector.abs().topk(min(LARGEST, len(vector))).indices.tolist()
    unit = "pixel" if values.dim() > 3 else "channel" if values.dim() > 1 else "entry"
    return Look(index, c, vectors, at, _place(values.dim(), outer, at), tuple(vector.tolist()),
                tuple((i, float(vector[i])) for i in order), head, unit=unit)  # fmt: skip


def _place(dims: int, outer: Sequence[int], at: int) -> str:
    """Where vector `at` stands in its tensor, in words; counted from 0."""
    if len(outer) < 2:
        return f"row {at}" if outer else ""
    last = outer[-1]
    return f"row {at // last}, {'channel' if dims > 3 else 'position'} {at % last}"
