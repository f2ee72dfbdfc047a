"""The form of a denoiser call: which arguments it has, as text, and the bytes of the tensors that have to cross.

A pipeline calls its denoiser many times with nearly the same arguments: the text embeddings never change, the time step
always does. So the form is sent when it changes, a tensor that crossed before is named by its handle, and what is left
are a few bytes and the latent. Handles are numbers within one session.

Latents, hidden tensors and embeddings go through the session's codec. Time steps, ids, masks and a scheduler's state
never do: they are few bytes, and a rounded time step is another one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import FrameError, LimitExceeded
from ..quantization import Codec, Encoded, loses
from ..wire.message import Sent
from .tensor_bytes import from_bytes, is_whole, laid_out, layout_of, to_bytes, whole_from_bytes, whole_to_bytes

KEEP_FROM = 64  # bytes: a smaller tensor is sent again rather than remembered
MAX_KEPT, MAX_CHANGES, MAX_TENSORS, MAX_VALUES, MAX_FORM, MAX_NESTED = 64, 3, 64, 1 << 24, 1 << 16, 8
_EMBEDDING = re.compile(r"call\.(?:\w+\.)*(?:encoder_hidden_states|pooled_projections|\w+_embeds)\w*(?:\.\d+)*")
_ONCE = ("call.", "beside")  # what may be worth remembering; a scheduler's state comes once anyway
_ZSTD = b"\x28\xb5\x2f\xfd"  # how a compressed form begins; JSON begins otherwise
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
    kept: list[tuple[str, str, Tensor]] = field(default_factory=list)  # path, how it crossed, what it was here
    last: bytes = b""

    def pack(self, tree: dict[str, Any], how: dict[str, list]) -> tuple[bytes, list[Sent]]:
        """(form, tensors) of one call; the form is empty when the host would read the same as last time.

        how: by a tensor's path ("call.sample"), ["up"] (through the codec), ["twice"] (both halves are equal, one goes
        up), ["raw"] (as it is), ["zero"] (only its shape crosses) or ["latent", repeat, scaled] (the host has it).
        Every other tensor crosses once: embeddings through the codec where that loses something, the rest as it is.
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
        return min(form, _squeezed(form), key=len), sent

    def _entry(self, path: str, value: Tensor, how: list, sent: list[Sent]) -> list:
        name = path.removeprefix("call.")
        kind, dtype, width = how[0], str(value.dtype).removeprefix("torch."), value.element_size()
        if kind in ("zero", "latent"):
            return [*how, dtype, list(value.shape)]
        front: list[str] = []
        if kind == "":
            embedding = value.is_floating_point() and _EMBEDDING.fullmatch(path) and "mask" not in path
            kind = "up" if embedding and loses(self.up.spec, value.dtype) else "whole" if is_whole(value) else "raw"
            if value.nbytes > KEEP_FROM and path.startswith(_ONCE):
                for number, (_, way, old) in enumerate(self.kept):
                    alike = way == kind and old.dtype == value.dtype and old.shape == value.shape
                    if alike and torch.equal(old, value):
                        return ["had", number]
                if self._worth_keeping(path, value):
                    self.kept.append((path, kind, value.detach().clone()))
                    front = ["keep"]
        if kind in ("up", "twice"):
            part = value[: len(value) // 2] if kind == "twice" else value
            encoded = self.up.encode(part)
            sent.append(Sent(name, encoded, part.numel() * width))
            return [*front, kind, layout_of(part), dtype, list(part.shape)]
        raw = whole_to_bytes(value) if kind == "whole" else to_bytes(value)
        sent.append(Sent(name, Encoded(f"{kind}:{dtype}", tuple(value.shape), raw), value.nbytes))
        return [*front, kind, dtype, list(value.shape)]

    def _worth_keeping(self, path: str, value: Tensor) -> bool:
        """Not what changes at every call, and no more than a host remembers."""
        changes = sum(where == path for where, _, _ in self.kept)
        values = value.numel() + sum(old.numel() for _, _, old in self.kept)
        return changes < MAX_CHANGES and len(self.kept) < MAX_KEPT and values <= MAX_VALUES


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
        if sum(map(_values, entries)) + sum(tensor.numel() for tensor in self.kept) > 2 * MAX_VALUES:
            raise LimitExceeded(f"A call and what its session keeps have at most {2 * MAX_VALUES:,} values.")
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
        if kind == "keep":
            if len(entry) < 2 or entry[1] not in ("up", "raw", "whole"):
                raise FrameError("The form keeps a tensor of no known kind.")
            if len(kept) >= MAX_KEPT:
                raise LimitExceeded(f"A session keeps at most {MAX_KEPT} tensors.")
            tensor, at = self._tensor(entry[1:], payload, at, kept)
            kept.append(tensor)
            return tensor, at
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
        if kind == "whole":
            return whole_from_bytes(payload, at, dtype, shape)
        if kind != "raw":
            raise FrameError("The form has a tensor of no known kind.")
        size = math.prod(shape) * dtype.itemsize
        return from_bytes(payload[at : at + size], dtype, shape), at + size


def leaves(tree: Any, change: Callable[[Any], Any]) -> Any:
    """The tree with every leaf changed."""
    if isinstance(tree, dict):
        return {name: leaves(part, change) for name, part in tree.items()}
    if isinstance(tree, list):
        return [leaves(part, change) for part in tree]
    return change(tree)


def _squeezed(form: bytes) -> bytes:
    """The form compressed by zstandard."""
    import zstandard

    return zstandard.ZstdCompressor(level=9, write_checksum=False).compress(form)


def _loosened(form: bytes) -> bytes:
    """The form of `_squeezed`, after a look at the size that it declares: the library allocates whatever it says."""
    import zstandard

    try:
        if zstandard.frame_content_size(form) > MAX_FORM:
            raise LimitExceeded(f"A form has at most {MAX_FORM:,} bytes.")
        return zstandard.ZstdDecompressor(max_window_size=MAX_FORM).decompress(form, max_output_size=MAX_FORM)
    except zstandard.ZstdError:
        raise FrameError("The form of this call is not readable.") from None


def _read(form: bytes) -> tuple[object, list]:
    if len(form) > MAX_FORM:
        raise LimitExceeded(f"A form has at most {MAX_FORM:,} bytes.")
    form = _loosened(form) if form.startswith(_ZSTD) else form
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


def _values(entry: list) -> int:
    """How many values a tensor of the form makes in memory: a coded one may take a thousandth of that to send."""
    if entry[0] in ("had", "zero", "latent"):
        return 0
    return math.prod(_dtype_and_shape(entry)[1]) * (2 if entry[0] == "twice" else 1)


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
