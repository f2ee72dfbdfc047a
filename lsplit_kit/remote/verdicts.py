"""What is said of several hosts: each one's trouble as part of a sentence, and which of their errors counts."""

from __future__ import annotations

import math

from ..errors import Busy, LsplitError
from ..wire.message import HostInfo
from .client import RpycLink


def reason(link: RpycLink, error: LsplitError) -> str:
    """What is wrong with a host, as part of a sentence that names it."""
    text = str(error).rstrip(".").replace("; ", ", ")  # a list of reasons has the semicolons
    return text if link.address in text else f"{link.address}: {text}"


def saying(error: LsplitError, text: str) -> LsplitError:
    """The same error, with all that it knows, in other words."""
    error.args = (text,)
    return error


def soonest(errors: list[LsplitError]) -> LsplitError:
    """The error that ends soonest: where a host is only full, it is worth asking again."""
    return min(errors, key=lambda error: error.retry_after if isinstance(error, Busy) else math.inf)


def serves(info: HostInfo) -> str:
    """What a host holds, for a sentence that compares two."""
    return f"layers [{info.start}, {info.stop}) of {info.model} in {info.dtype}, fingerprint {info.fingerprint[:12]}"
