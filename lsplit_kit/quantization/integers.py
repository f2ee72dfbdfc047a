"""int1 to int8, and nf4: levels with a scale for the tensor, a token, a channel or a group.

`int8` is the paper's codec (arXiv 2310.14651): 256 levels from a tensor's smallest to its largest value.
"""

from __future__ import annotations

import numpy as np

from ..errors import CodecError
from .calibration import calibration
from .chain import Chain
from .grain import GRAINS, Grain
from .levels import Affine, Levels, Symmetric
from .registry import Codec, family
from .spec import Spec
from .stages import Hadamard, Mean, Outliers, Stage

USUAL = (
    "int8", "int6", "int4", "int3", "int2", "int1", "int4:clip=mse", "int8:token", "int8:token+hadamard=64",
    "int8:channel", "int8:group=64", "int8:group=64+hadamard=64", "int4:group=64", "int4:group=64:affine",
    "int4:group=64+hadamard=64", "int4:token+outliers=16", "nf4:group=64",
)  # fmt: skip
_OPTIONS, _STAGES = (*GRAINS, "sym", "affine", "clip"), ("mean", "outliers", "hadamard")


@family(*(f"int{bits}" for bits in range(1, 9)))
def _integers(spec: Spec) -> Codec:
    """Affine with one scale for the tensor, else symmetric, unless the spec says sym or affine."""
    spec.only(_OPTIONS, _STAGES)
    grain = _grain(spec, "tensor")
    if {"sym", "affine"} <= set(spec.options):
        raise CodecError(f"Unknown codec {spec.text!r}: it cannot be sym and affine.")
    affine = "affine" in spec.options or (grain.kind == "tensor" and "sym" not in spec.options)
    clip = spec.options.get("clip")
    if clip not in (None, "mse"):
        raise CodecError(f"Unknown codec {spec.text!r}: clip is mse, or left out (from the smallest to the largest).")
    bits = int(spec.base.removeprefix("int"))
    levels: Levels = Affine(bits) if affine else Symmetric(bits)
    return Chain(spec.text, levels, grain, _stages(spec), clip == "mse")


@family("nf4")
def _nf4(spec: Spec) -> Codec:
    spec.only(("token", "group"), _STAGES)
    return Chain(spec.text, NormalFloat(), _grain(spec, "group"), _stages(spec))


def _grain(spec: Spec, usual: str) -> Grain:
    kinds = [name for name in GRAINS if name in spec.options]
    if len(kinds) > 1:
        raise CodecError(f"Unknown codec {spec.text!r}: {' and '.join(kinds)} cannot both have a scale.")
    kind = kinds[0] if kinds else usual
    if kind != "group":
        return Grain(kind)
    return Grain(kind, spec.whole("group", spec.options.get("group") or "64", 2, 65_536))


def _stages(spec: Spec) -> list[Stage]:
    """The mean first, then outliers, whatever the order in the spec: after a rotation there are none."""
    found: list[Stage] = []
    if "mean" in spec.stages:
        name = spec.stages["mean"]
        found.append(Mean(spec.text, calibration(name, spec.given) if name else None))
    if "outliers" in spec.stages:
        found.append(Outliers(spec.whole("outliers", spec.stages["outliers"] or "16", 1, 65_536)))
    if "hadamard" in spec.stages:
        size = spec.whole("hadamard", spec.stages["hadamard"] or "64", 2, 4096)
        if size & (size - 1):
            raise CodecError(f"Unknown codec {spec.text!r}: hadamard takes a power of two.")
        found.append(Hadamard(size))
    return found


class NormalFloat:
    """NF4: sixteen levels at quantiles of a normal distribution, zero among them (arXiv 2305.14314, section 3)."""

    bits, parameters = 4, 1

    def __init__(self) -> None:
        from scipy.stats import norm

        edge = 0.9677083  # (1 - 1/32 + 1 - 1/30) / 2, as in section 3: the mass that the outermost levels stand for
        above, below = norm.ppf(np.linspace(edge, 0.5, 9))[:-1], -norm.ppf(np.linspace(edge, 0.5, 8))[:-1]
        levels = np.sort(np.concatenate([above, [0.0], below]))
        self.levels = (levels / levels.max()).astype(np.float32)
        self.between = (self.levels[1:] + self.levels[:-1]) / 2

    def fit(self, matrix: np.ndarray) -> np.ndarray:
        """The largest magnitude of each row [k, 1]."""
        return np.abs(matrix).max(axis=1, keepdims=True).astype(np.float64)

    def narrowed(self, scales: np.ndarray, share: float) -> np.ndarray:
        """The scales of a range of `share` of its width."""
        return scales * share

    def to(self, matrix: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The number of the nearest level."""
        safe = np.where(scales > 0, scales, np.float32(1))
        return np.searchsorted(self.between, matrix / safe).astype(np.uint8)

    def back(self, numbers: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """The values of levels."""
        return self.levels[numbers] * scales
