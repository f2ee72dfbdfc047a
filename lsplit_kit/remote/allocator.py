"""What a host's process does with memory that it no longer uses (glibc; nothing elsewhere)."""

from __future__ import annotations

import ctypes
import sys

ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h


def one_arena() -> None:
    """Let all threads allocate from one arena; call it before there are threads.

    By default every connection's thread has an arena of its own, and each keeps the room of the largest step it ever
    computed: twenty connections cost as much again as their sessions. A host computes one step at a time, so threads
    hardly ever wait for the one arena.
    """
    option = getattr(_glibc(), "mallopt", None)
    if option is not None:
        option(ARENA_MAX, 1)


def give_back() -> None:
    """Return to the system the pages that the allocator keeps free, also those between others in use.

    Sessions that come and go leave gaps, into which those of other lengths do not fit.
    """
    trim = getattr(_glibc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The process's own C library; None on Windows, which has no name for it."""
    return None if sys.platform == "win32" else ctypes.CDLL(None)
