"""Reading single tensors out of safetensors files with plain reads: peak memory is what was asked for."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from lsplit_kit.errors import WeightsError
from lsplit_kit.models.home import home, write_text

MANIFEST = "lsplit.json"
ALIGNMENT = 64  # bytes; kernels choose other code paths, and other roundings, for other alignments
_HEADER_LIMIT = 100_000_000  # bytes; the safetensors format's own limit
_CHUNK = 1 << 22
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: file, byte offset in it, shape, dtype, bytes."""

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int


def _damaged(file: Path, what: str) -> WeightsError:
    return WeightsError(f"The weights file {file} is damaged ({what}); delete it and fetch or save it again.")


def read_header(file: Path) -> dict[str, Entry]:
    """Entries of one safetensors file; raises WeightsError for a missing, damaged or truncated file."""
    try:
        size = file.stat().st_size
        with open(file, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise _damaged(file, "its header is cut short")
            header = json.loads(handle.read(length).decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _damaged(file, "its header is not JSON") from error
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"The weights file {file} cannot be read ({error.strerror}).") from error
    start, entries = 8 + length, {}
    try:
        for name, info in header.items():
            if name == "__metadata__":
                continue
            dtype, shape, (begin, end) = _DTYPES[info["dtype"]], tuple(info["shape"]), info["data_offsets"]
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise ValueError
            if end - begin != math.prod(shape) * dtype.itemsize:
                raise ValueError
            entries[name] = Entry(file, start + begin, shape, dtype, end - begin)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(file, "its header does not describe tensors the kit can read") from error
    expected = max((entry.offset + entry.nbytes for entry in entries.values()), default=start)
    if size != expected:
        raise _damaged(file, f"it has {size} bytes instead of {expected}")
    return entries


class TensorFolder:
    """The tensors of a model folder (model.safetensors or a sharded index), read one by one, aligned."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        index = self.folder / "model.safetensors.index.json"
        if (self.folder / "model.safetensors").is_file():
            files = ["model.safetensors"]
        elif index.is_file():
            try:
                files = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
                if not all(type(name) is str and Path(name).name == name for name in files):
                    raise ValueError
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise _damaged(index, "it is not an index of weight files") from error
        else:
            raise WeightsError(f"The folder {self.folder} holds no model.safetensors.")
        self.files = [self.folder / name for name in files]
        self._entries: dict[str, Entry] = {}
        for file in self.files:
            self._entries.update(read_header(file))

    @property
    def names(self) -> list[str]:
        """Names of all tensors in the folder."""
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def _entry(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise WeightsError(f"The folder {self.folder} holds no tensor named {name!r}.") from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """Number format of one tensor on disk."""
        return self._entry(name).dtype

    def nbytes(self, name: str) -> int:
        """Bytes of one tensor on disk."""
        return self._entry(name).nbytes

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """One tensor in 64-byte-aligned memory of its own, cast to `dtype` when given and it is floating."""
        entry = self._entry(name)
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        if entry.nbytes:
            view = memoryview(tensor.view(-1).view(torch.uint8).numpy())
            try:
                with open(entry.file, "rb", buffering=0) as file:
                    file.seek(entry.offset)
                    while view:  # one call may return less than asked, always so above 2 GB
                        got = file.readinto(view)
                        if not got:
                            raise _damaged(entry.file, f"it ends inside {name}")
                        view = view[got:]
            except WeightsError:
                raise
            except OSError as error:
                what = f"The weights file {entry.file} cannot be read ({error.strerror})."
                raise WeightsError(what) from error
        if dtype is not None and tensor.dtype.is_floating_point:
            tensor = tensor.to(dtype)
        assert tensor.data_ptr() % ALIGNMENT == 0, "torch allocated memory that is not 64-byte aligned"
        return tensor

    def stream_digest(self, name: str) -> str:
        """SHA-256 (hex) of one tensor's little-endian bytes on disk, read in small pieces."""
        entry, digest = self._entry(name), hashlib.sha256()
        with open(entry.file, "rb", buffering=0) as file:
            file.seek(entry.offset)
            left = entry.nbytes
            while left:
                piece = file.read(min(left, _CHUNK))
                if not piece:
                    raise _damaged(entry.file, f"it ends inside {name}")
                digest.update(piece)
                left -= len(piece)
        return digest.hexdigest()

    def _stamps(self) -> dict[str, list[int]]:
        stats = {file.name: file.stat() for file in self.files}
        return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of every tensor by name: from a manifest that fits the files, or streamed once."""
        beside = self.folder / MANIFEST
        key = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:32]
        elsewhere = home() / "digests" / f"{key}.json"
        stamps = self._stamps()
        for path in (beside, elsewhere):
            found = read_manifest(path)
            # A folder saved over again keeps the old manifest: sizes and times tell.
            if found.get("files") == stamps and set(found["tensors"]) == set(self._entries):
                return dict(found["tensors"])
        manifest = {k: v for k, v in read_manifest(beside).items() if k in ("model", "source_sha256")}
        try:
            self.write_manifest(beside, **manifest)
            return dict(read_manifest(beside)["tensors"])
        except OSError:
            elsewhere.parent.mkdir(parents=True, exist_ok=True)
            self.write_manifest(elsewhere, **manifest)
            return dict(read_manifest(elsewhere)["tensors"])

    def write_manifest(self, path: Path | None = None, **facts: str) -> None:
        """Write lsplit.json (format, given facts, file stamps, a digest per tensor) beside the weights."""
        manifest = {
            "format": 1,
            **facts,
            "files": self._stamps(),
            "tensors": {name: self.stream_digest(name) for name in sorted(self._entries)},
        }
        write_text(path or self.folder / MANIFEST, json.dumps(manifest, indent=1))


def read_manifest(path: Path) -> dict:
    """A manifest of format 1 as a dict, or an empty dict when there is none that can be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    fits = isinstance(found, dict) and found.get("format") == 1 and isinstance(found.get("tensors"), dict)
    return found if fits else {}
