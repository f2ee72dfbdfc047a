"""What may be asked of a host that holds a whole model: a few options by name, each with its type and limits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import FrameError, LimitExceeded, UnsupportedOption

MAX_JSON = 4096  # bytes
MAX_NEW = 4096  # tokens of one reply
DEFAULT_NEW = 20  # as the library's


class Rule(NamedTuple):
    """An option's type and its least and largest value."""

    kind: type
    least: float = 0
    most: float = 1


SEED = Rule(int, 0, 2**63 - 1)
TEXT = {
    "max_new_tokens": Rule(int, 1, MAX_NEW),
    "do_sample": Rule(bool),
    "temperature": Rule(float, 0.001, 100),
    "top_k": Rule(int, 0, 1 << 20),
    "top_p": Rule(float, 0.001, 1),
    "repetition_penalty": Rule(float, 0.01, 100),
    "seed": SEED,
}
PICTURE = {
    "num_inference_steps": Rule(int, 1, 200),
    "guidance_scale": Rule(float, 0, 100),
    "height": Rule(int, 8, 1024),
    "width": Rule(int, 8, 1024),
    "seed": SEED,
}
SAMPLING = ("temperature", "top_k", "top_p")  # without do_sample they mean nothing, and the library would say so


def checked(options: Mapping[str, object], rules: Mapping[str, Rule]) -> dict[str, Any]:
    """The options, each of its rule's type and within its limits; raises UnsupportedOption and LimitExceeded."""
    for name, value in options.items():
        if name not in rules:
            raise UnsupportedOption(f"Unknown option {str(name)[:40]!r}; a deployment takes {', '.join(rules)}.")
        kind, least, most = rules[name]
        good = type(value) is kind or (kind is float and type(value) is int)
        if not good or (kind is float and not math.isfinite(value)):  # type: ignore[arg-type]
            words = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
            raise UnsupportedOption(f"{name} takes {words}, got {str(value)[:40]!r}.")
        if kind is not bool and value < least:  # type: ignore[operator]
            raise UnsupportedOption(f"{name} takes a number from {least:g} on, got {str(value)[:40]}.")
        if kind is not bool and value > most:  # type: ignore[operator]
            raise LimitExceeded(f"{name} is {str(value)[:40]}; the limit is {most:g}.")
    return dict(options)


def for_generate(options: Mapping[str, Any]) -> dict[str, Any]:
    """Checked options as arguments of the library's generate(): without the seed, and greedy unless it samples."""
    sample = bool(options.get("do_sample"))
    kept = {k: v for k, v in options.items() if k != "seed" and (sample or k not in SAMPLING)}
    return {"max_new_tokens": DEFAULT_NEW, **kept, "do_sample": sample}


def to_json(options: Mapping[str, Any]) -> bytes:
    """Options as they cross."""
    return json.dumps(dict(options), separators=(",", ":")).encode()


def from_json(raw: bytes) -> dict[str, Any]:
    """Options as they came; raises FrameError for what is no JSON object, LimitExceeded over 4,096 bytes."""
    if len(raw) > MAX_JSON:
        raise LimitExceeded(f"Options take at most {MAX_JSON:,} bytes, got {len(raw):,}.")
    try:
        found = json.loads(raw.decode() or "{}")
    except (ValueError, RecursionError):
        found = None
    if type(found) is not dict:
        raise FrameError("The options are no JSON object.")
    return found
