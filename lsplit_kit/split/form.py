"""The form of a denoiser call: which arguments it has, as text, and the bytes of the tensors that have to cross.

A pipeline calls its denoiser many times with nearly the same arguments: the text embeddings never change, the time step
always does. So the form is sent when it changes, a tensor that crossed before is named by its handle, and what is left
are a few bytes and the latent. Handles are numbers within one session.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import FrameError, LimitExceeded
from ..quantization import Codec, Encoded, check_finite
from ..wire.message import Sent

KEEP_FROM = 64  # bytes: a smaller tensor is sent again rather than remembered
MAX_KEPT, MAX_CHANGES, MAX_TENSORS, MAX_VALUES, MAX_FORM, MAX_NESTED = 64, 3, 64, 1 << 24, 1 << 16, 8
_DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    + (torch.int64, torch.int32, torch.uint8, torch.bool)
}


class Latent(NamedTuple):
    """Stands for a tensor that the host makes from the latent it remembers: scaled for its step, repeated, extended."""

    repeat: int
    scaled: bool


@dataclass
class Packer:
    """The local side's memory of one session: what the host has kept, and the last form it was sent."""

    up: Codec
    kept: list[tuple[str, Tensor]] = field(default_factory=list)
    last: bytes = b""

    def pack(self, tree: dict[str, Any], how: dict[str, list]) -> tuple[bytes, list[Sent]]:
        """(form, tensors) of one call; the form is empty when the host would read the same as last time.

        how: by a tensor's path ("call.sample"), ["up"] (through the codec), ["twice"] (both halves are equal, one goes
        up), ["zero"] (only its shape crosses) or ["latent", repeat, scaled] (the host has it). Every other tensor
        crosses as it is, once.
        """
        entries: list[list] = []
        sent: list[Sent] = []

        def put(path: str, value: Any) -> Any:
            if isinstance(value, Tensor):
                entries.append(self._entry(path, value, how.get(path, [""]), sent))
                return {"#": len(entries) - 1}
            if isinstance(value, dict):
                return {"d": {str(k): put(f"{path}.{k}" if path else str(k), v) for k, v in value.items()}}
            if isinstance(value, (list, tuple)):
                return {"l": [put(f"{path}.{i}", v) for i, v in enumerate(value)]}
            if value is None or isinstance(value, (bool, int, float, str)):
                return value
            raise FrameError(
                f"{path} is a {type(value).__name__}; only tensors, numbers and text reach a far denoiser."
            )

        form = json.dumps([put("", tree), entries], separators=(",", ":")).encode()
        if form == self.last:
            return b"", sent
        self.last = b"" if any(e[0] == "keep" for e in entries) else form  # what was kept is named otherwise next time
        return form, sent

    def _entry(self, path: str, value: Tensor, how: list, sent: list[Sent]) -> list:
        name = path.removeprefix("call.")
        kind, dtype, width = how[0], str(value.dtype).removeprefix("torch."), value.element_size()
        if kind in ("zero", "latent"):
            return [*how, dtype, list(value.shape)]
        if kind in ("up", "twice"):
            part = value[: len(value) // 2] if kind == "twice" else value
            encoded = self.up.encode(part)
            sent.append(Sent(name, encoded, part.numel() * width))
            return [kind, layout_of(part), dtype, list(part.shape)]
        raw = Encoded(f"raw:{dtype}", tuple(value.shape), to_bytes(value))
        if len(raw.payload) > KEEP_FROM:
            for number, (_, old) in enumerate(self.kept):
                if old.dtype == value.dtype and old.shape == value.shape and torch.equal(old, value):
                    return ["had", number]
            changes = sum(where == path for where, _ in self.kept)
            if changes < MAX_CHANGES and len(self.kept) < MAX_KEPT:  # what changes at every call is not worth keeping
                self.kept.append((path, value.detach().clone()))
                kind = "keep"
        sent.append(Sent(name, raw, len(raw.payload)))
        return [kind or "raw", dtype, list(value.shape)]


@dataclass
class Unpacker:
    """The host's memory of one session: tensors by handle, and the last form."""

    up: Codec
    kept: list[Tensor] = field(default_factory=list)
    last: Any = None

    def unpack(self, form: bytes, payload: bytes) -> Any:
        """The tree of one call, with a `Latent` where the host has the tensor; raises FrameError, LimitExceeded."""
        read = _read(form) if form else self.last
        if read is None:
            raise FrameError("The form of the last call does not say what this one brings.")
        tree, entries = read
        tensors: list[Any] = []
        kept, at = list(self.kept), 0
        for entry in entries:
            tensor, at = self._tensor(entry, payload, at, kept)
            tensors.append(tensor)
        if at != len(payload):
            raise FrameError(f"The form speaks of {at} payload bytes, {len(payload)} came.")
        built = _build(tree, tensors)
        self.kept = kept  # only now: a refused call leaves no trace
        self.last = None if any(e[0] == "keep" for e in entries) else read
        return built

    def _tensor(self, entry: list, payload: bytes, at: int, kept: list[Tensor]) -> tuple[Any, int]:
        kind = entry[0]
        if kind == "had":
            if len(entry) != 2 or type(entry[1]) is not int or not 0 <= entry[1] < len(kept):
                raise FrameError("The form names a handle that this session does not have.")
            return kept[entry[1]], at
        dtype, shape = _dtype_and_shape(entry)
        if kind == "latent":
            if len(entry) != 5 or entry[1] not in (1, 2) or type(entry[2]) is not bool:
                raise FrameError("The form names a latent that cannot be.")
            return Latent(entry[1], entry[2]), at
        if kind == "zero":
            return torch.zeros((), dtype=dtype).expand(shape), at
        if kind in ("up", "twice"):
            size = self.up.length(payload, at, shape)
            part = self.up.decode(Encoded(self.up.spec, shape, payload[at : at + size]), dtype)
            part = laid_out(part, entry[1] if len(entry) == 4 else "")
            return (torch.cat([part, part]) if kind == "twice" else part), at + size
        if kind not in ("raw", "keep"):
            raise FrameError("The form has a tensor of no known kind.")
        size = math.prod(shape) * dtype.itemsize
        tensor = from_bytes(payload[at : at + size], dtype, shape)
        if kind == "keep":
            if len(kept) >= MAX_KEPT:
                raise LimitExceeded(f"A session keeps at most {MAX_KEPT} tensors.")
            kept.append(tensor)
        return tensor, at + size


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


def leaves(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The tree with every leaf changed."""
    if isinstance(tree, dict):
        return {name: leaves(part, change) for name, part in tree.items()}
    if isinstance(tree, list):
        return [leaves(part, change) for part in tree]
    return change(tree)


def _read(form: bytes) -> tuple[object, list]:
    if len(form) > MAX_FORM:
        raise LimitExceeded(f"A form has at most {MAX_FORM:,} bytes.")
    try:
        tree, entries = json.loads(form)
    except (ValueError, TypeError, RecursionError):
        raise FrameError("The form of this call is not readable.") from None
    if type(entries) is list and len(entries) > MAX_TENSORS:
        raise LimitExceeded(f"A call has at most {MAX_TENSORS} tensors.")
    if type(entries) is not list or not all(type(e) is list and e and type(e[0]) is str for e in entries):
        raise FrameError("The form has a tensor of no known kind.")
    return tree, entries


def _dtype_and_shape(entry: list) -> tuple[torch.dtype, tuple[int, ...]]:
    dtype, shape = entry[-2:] if len(entry) >= 3 else ("", None)
    if type(dtype) is not str or dtype not in _DTYPES or type(shape) is not list or len(shape) > 6:
        raise FrameError("The form has a tensor without a dtype and a shape that may cross.")
    whole = all(type(n) is int and 0 <= n <= MAX_VALUES for n in shape)
    if not whole or math.prod(max(n, 1) for n in shape) > MAX_VALUES:  # a 0 must not hide the others
        raise LimitExceeded(f"A tensor has at most {MAX_VALUES:,} values.")
    return _DTYPES[dtype], tuple(shape)


def _build(node: object, tensors: list, depth: int = 0) -> Any:
    if node is None or type(node) in (bool, int, float, str):
        return node
    kind, value = next(iter(node.items())) if type(node) is dict and len(node) == 1 else ("", None)
    if depth <= MAX_NESTED:
        if kind == "#" and type(value) is int and 0 <= value < len(tensors):
            return tensors[value]
        if kind == "d" and type(value) is dict:
            return {name: _build(part, tensors, depth + 1) for name, part in value.items()}
        if kind == "l" and type(value) is list:
            return [_build(part, tensors, depth + 1) for part in value]
    raise FrameError("The form of this call is not readable.")
