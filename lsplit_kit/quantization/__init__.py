"""Codecs: a tensor becomes bytes and comes back, named by a spec string such as `int8:token`."""

from .registry import Codec, Encoded, codec, register, specs

__all__ = ["Codec", "Encoded", "codec", "register", "specs"]
