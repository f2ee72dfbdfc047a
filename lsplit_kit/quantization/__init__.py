"""Codecs: a tensor becomes bytes and comes back, named by a spec string such as `int8:token`."""

from .casts import lossless
from .registry import Codec, Encoded, check_finite, codec, register, specs

__all__ = ["Codec", "Encoded", "check_finite", "codec", "lossless", "register", "specs"]
