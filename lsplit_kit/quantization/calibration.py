"""What a codec knows of the tensors before it sees one: measured once, kept in a file, named by the file's hash.

A calibrated codec's spec carries that name (`klt:cal=<hash>:step=0.4+ans`), so two sides cannot use different ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..card import Card
from ..errors import CalibrationMissing, CodecError
from .entropy import SHAPES
from .spec import parse

SHIPPED = Path(__file__).parent / "calibrations"
MOST_BYTES, WIDEST, MOST_CLASSES, DIGITS = 8 << 20, 2048, 64, 32  # of a file, a vector, its classes, a name
_PARTS = {"mean": "float32", "basis": "int8", "scales": "float32", "centres": "float16", "spreads": "uint8",
          "steps": "float16"}  # fmt: skip


class Calibration(Card):
    """Mean and transform of vectors [d], and C classes of vectors with a centre and a spread for each coefficient.

    basis [d, d] takes a centred vector to its coefficients, whose median spread is 1; back [d, d] is its inverse.
    centres [C, d]; spreads [C, d] in the bytes of `entropy.Curve`; steps [C]: how much coarser than the spec's step a
    class may be rounded. facts say what it was measured on.
    """

    def __init__(self, raw: bytes) -> None:
        """Read a file's bytes; raises CodecError where they are no calibration."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        if type(raw) is not bytes or len(raw) > MOST_BYTES:
            raise CodecError(f"A calibration is a file of at most {MOST_BYTES:,} bytes.")
        try:
            length = int.from_bytes(raw[:8], "little")
            self.facts: dict[str, Any] = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["lsplit"])
            parts = load(raw)
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, UnicodeDecodeError):
            raise CodecError("These bytes are no calibration file.") from None
        self.raw, self.id = raw, hashlib.sha256(raw).hexdigest()[:DIGITS]
        kinds = {name: str(part.dtype) for name, part in parts.items()}
        d, classes = parts["mean"].size if kinds == _PARTS else 0, parts["spreads"].shape[0] if kinds == _PARTS else 0
        shapes = {"mean": (d,), "basis": (d, d), "scales": (d,), "centres": (classes, d), "spreads": (classes, d),
                  "steps": (classes,)}  # fmt: skip
        if not (0 < d <= WIDEST and 0 < classes <= MOST_CLASSES) or {n: p.shape for n, p in parts.items()} != shapes:
            raise CodecError("These bytes are no calibration file: its tensors do not fit together.")
        curve = self.facts.get("shape") if isinstance(self.facts, dict) else None
        if type(curve) is not int or not 0 <= curve < len(SHAPES):
            raise CodecError("This calibration names no known curve.")
        self.shape: int = curve
        self.mean, self.spreads = parts["mean"], parts["spreads"]
        self.centres, self.steps = parts["centres"].astype(np.float32), parts["steps"].astype(np.float64)
        self.basis = parts["basis"] * parts["scales"]
        try:
            with np.errstate(all="ignore"):
                self.back = np.linalg.inv(self.basis.astype(np.float64)).astype(np.float32)
        except np.linalg.LinAlgError:
            raise CodecError("This calibration's transform has no inverse.") from None
        if not all(np.isfinite(part).all() for part in (self.mean, self.basis, self.back, self.centres)):
            raise CodecError("This calibration holds NaN or infinity.")
        if not ((self.steps >= 1 / 64) & (self.steps <= 64)).all():
            raise CodecError("This calibration's steps are not between 1/64 and 64.")

    @property
    def width(self) -> int:
        """d, the length of the vectors."""
        return self.mean.size

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        parts = (self.mean, self.spreads, self.centres, self.steps, self.basis, self.back)
        return len(self.raw) + sum(part.nbytes for part in parts)

    def _card(self) -> tuple[str, dict[str, object]]:
        said = {k: v for k, v in self.facts.items() if isinstance(v, (int, str)) and k != "shape"}
        return f"Calibration {self.id}", {**said, "classes": len(self.spreads), "bytes": f"{len(self.raw):,}"}


def write(
    facts: Mapping[str, Any],
    mean: np.ndarray,
    basis: np.ndarray,
    centres: np.ndarray,
    spreads: np.ndarray,
    steps: np.ndarray,
) -> bytes:
    """A calibration file's bytes; basis float [d, d] is rounded to int8, a scale for each column."""
    from safetensors.numpy import save

    scales = (np.abs(basis).max(axis=0) / 127).astype(np.float32)
    middle = centres.clip(-60_000, 60_000)  # within fp16
    parts = {
        "mean": mean.astype(np.float32), "basis": np.rint(basis / scales).astype(np.int8), "scales": scales,
        "centres": middle.astype(np.float16), "spreads": spreads.astype(np.uint8), "steps": steps.astype(np.float16),
    }  # fmt: skip
    return save(parts, {"lsplit": json.dumps(dict(facts), sort_keys=True)})


def calibration(name: str, given: Mapping[str, Calibration] | None = None) -> Calibration:
    """The calibration of this name (32 hex digits): one of `given`, a shipped one, or one in the user's folder.

    Raises CalibrationMissing where none of them has it.
    """
    if given and name in given:
        return given[name]
    path = _files(tuple(folders())).get(name)
    if path is None:
        path = _files.__wrapped__(tuple(folders())).get(name)  # made since the folders were last looked through
    if path is None:
        raise CalibrationMissing(f"The calibration {name[:DIGITS]} is not here.")
    return _read(path, path.stat().st_mtime_ns)


def calibrations() -> list[Calibration]:
    """Every calibration of this machine: the shipped ones, and those that `lsplit calibrate` made."""
    return [_read(path, path.stat().st_mtime_ns) for path in _files.__wrapped__(tuple(folders())).values()]


def folders() -> list[Path]:
    """Where calibrations lie: in the package, and in the user's cache folder."""
    from ..home import home

    return [SHIPPED, home() / "calibrations"]


@lru_cache(maxsize=4)
def _files(where: tuple[Path, ...]) -> dict[str, Path]:
    paths: Iterable[Path] = (
        path for folder in where if folder.is_dir() for path in sorted(folder.glob("*.safetensors"))
    )
    return {hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS]: path for path in paths}


@lru_cache(maxsize=32)
def _read(path: Path, changed: int) -> Calibration:
    return Calibration(path.read_bytes())


def fit_for(spec: str, known: Calibration | None, shape: tuple[int, ...]) -> Calibration:
    """The calibration of a codec that is about to meet a tensor [..., d]; raises CalibrationMissing, CodecError."""
    if known is None:
        named = spec.replace("klt:", "klt:cal=...:") if spec.startswith("klt:") else spec.replace("+mean", "+mean=...")
        raise CalibrationMissing(
            f"{spec} is calibrated for a model and a cut: lk.split(model, codec=...) finds the one that fits, "
            f"elsewhere name it, {named}."
        )
    if shape[-1] != known.width:
        raise CodecError(f"{spec} is calibrated for vectors of {known.width} values, got {shape[-1]}.")
    return known


def fitting(model: Mapping[str, Any], depth: int) -> str | None:
    """The name of the calibration that was made for such a model at this depth; the newest of several.

    model: what `split.calibrated.facts_of` says of it; a few values of its embedding tell relatives apart.
    """
    probe, found = np.asarray(model["probe"], np.float64), None
    for known in calibrations():  # the user's own come last
        facts = known.facts
        alike = all(facts.get(name) == model[name] for name in ("model_type", "width", "layers"))
        if alike and facts.get("depth") == depth and np.shape(facts.get("probe") or ()) == probe.shape:
            near = np.allclose(
                np.asarray(facts["probe"], np.float64), probe, rtol=2e-2, atol=1e-3
            )  # in any number format
            found = known.id if near else found
    return found


def unbound(spec: str) -> bool:
    """Whether a spec asks for a calibration and does not say which."""
    parts = parse(spec)
    return (parts.base == "klt" and "cal" not in parts.options) or parts.stages.get("mean") == ""


def bound(spec: str, name: str) -> str:
    """The spec with the calibration's name in it."""
    named = "+".join(f"mean={name}" if part == "mean" else part for part in spec.split("+"))
    return named.replace("klt:", f"klt:cal={name}:", 1)
