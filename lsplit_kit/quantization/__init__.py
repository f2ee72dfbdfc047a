"""Codecs: a tensor becomes bytes and comes back, named by a spec string such as `int8:token`."""

from .calibration import Calibration, calibrations
from .casts import loses, lossless
from .registry import Codec, Encoded, bases, check_finite, codec, family, register, specs

__all__ = [
    "Calibration", "Codec", "Encoded", "bases", "calibrations", "check_finite", "codec", "family", "loses", "lossless",
    "register", "specs",
]  # fmt: skip
