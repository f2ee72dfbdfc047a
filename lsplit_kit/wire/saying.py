"""A warning that names the line of the user's, not one of the kit's or of a library between the two."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

_BETWEEN = {"lsplit_kit", "torch", "transformers", "diffusers", "contextlib", "threading"}


def say(text: str) -> None:
    """Warn the user, who calls from the nearest frame that is in none of these packages.

    Python would show the same text for the same line once; here each call is shown, since each tells of another event.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and _package(frame) in _BETWEEN:
        frame = frame.f_back
    where = frame.f_code.co_filename, frame.f_lineno
    warnings.warn_explicit(text, UserWarning, *where, module=frame.f_globals.get("__name__"), registry={})


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
