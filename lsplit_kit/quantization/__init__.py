"""Codecs: a tensor becomes bytes and comes back, named by a spec string such as `int8:token`."""

from .casts import loses, lossless
from .registry import Codec, Encoded, bases, check_finite, codec, family, register, specs

__all__ = ["Codec", "Encoded", "bases", "check_finite", "codec", "family", "loses", "lossless", "register", "specs"]
