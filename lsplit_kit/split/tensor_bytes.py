"""A tensor's bytes where no codec is asked: as they are in memory, small whole numbers as few bytes, and the layout."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import FrameError
from ..quantization import check_finite
from ..quantization.entropy import read_varint, varint

WHOLE = (torch.int64, torch.int32)
MOST_WHOLE = 4096  # of a tensor: they are read one by one


def to_bytes(value: Tensor) -> bytes:
    """A tensor's bytes, row-major and little-endian; raises NonFiniteError."""
    if value.is_floating_point():
        check_finite(value, "a tensor to send")
    flat = torch.empty(value.numel(), dtype=value.dtype).copy_(value.detach().flatten())  # whatever its strides were
    return flat.view(torch.uint8).numpy().tobytes()


def from_bytes(raw: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor of `to_bytes` in memory of its own; raises FrameError on a wrong count, NonFiniteError."""
    size = math.prod(shape) * dtype.itemsize
    if len(raw) != size:
        raise FrameError(f"A tensor of shape {shape} needs {size} bytes, {len(raw)} are left.")
    if dtype is torch.bool and raw.strip(b"\0\1"):
        raise FrameError("A bool is 0 or 1.")
    out = torch.empty(shape, dtype=dtype)
    if size:
        out.view(-1).view(torch.uint8).copy_(torch.from_numpy(np.frombuffer(raw, np.uint8).copy()))
    if dtype.is_floating_point:
        check_finite(out, "a received tensor")
    return out


def layout_of(tensor: Tensor) -> str:
    """The order in which a tensor's dimensions lie in memory ("0231"), empty for row-major.

    Kernels are chosen by it, and another kernel gives other last bits: it has to cross with the values.
    """
    if tensor.is_contiguous() or tensor.dim() < 2:
        return ""
    order = sorted(range(tensor.dim()), key=lambda d: -tensor.stride(d))
    return "".join(map(str, order)) if tensor.permute(order).is_contiguous() else ""


def laid_out(tensor: Tensor, order: object) -> Tensor:
    """The same values in memory of that order; raises FrameError."""
    if order == "":
        return tensor
    if type(order) is not str or sorted(order) != [str(d) for d in range(tensor.dim())]:
        raise FrameError("A tensor's layout is an order of its dimensions.")
    dims = [int(d) for d in order]
    back = [dims.index(d) for d in range(len(dims))]
    return tensor.permute(dims).contiguous().permute(back)


def is_whole(value: Tensor) -> bool:
    """Whether a tensor is of a few whole numbers from 0 to 2^31: time steps, a mask."""
    few = value.dtype in WHOLE and 0 < value.numel() <= MOST_WHOLE
    return few and int(value.min()) >= 0 and int(value.max()) < 1 << 31


def whole_to_bytes(value: Tensor) -> bytes:
    """Whole numbers from 0 to 2^31, row-major, seven bits a byte, the lowest first."""
    return b"".join(map(varint, value.flatten().tolist()))


def whole_from_bytes(raw: bytes, at: int, dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[Tensor, int]:
    """(the tensor of `whole_to_bytes` that begins at `at`, where it ends); raises FrameError, CodecError."""
    count = math.prod(shape)
    if dtype not in WHOLE or count > MOST_WHOLE:
        raise FrameError(f"Whole numbers are int32 or int64, and at most {MOST_WHOLE:,} of a tensor.")
    found = []
    for _ in range(count):
        number, at = read_varint(raw, at)
        if number >= 1 << 31:
            raise FrameError("A whole number that crosses is below 2^31.")
        found.append(number)
    return torch.tensor(found, dtype=dtype).reshape(shape), at
