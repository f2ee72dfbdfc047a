"""What a host's process does with memory that it no longer uses (glibc; nothing elsewhere)."""

from __future__ import annotations

import ctypes
import sys
import time

ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h
PAUSE, WORTH = 5.0, 32 << 20  # seconds between two returns at least, and bytes that were let go of meanwhile


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


class Returns:
    """When a host gives memory back: seldom, because it takes milliseconds in which nothing is allocated."""

    def __init__(self) -> None:
        self._freed, self._since = 0, time.monotonic()

    def look(self, freed: int) -> bool:
        """Give back if it is worth it; freed: bytes of sessions let go of since the host's start. Returns whether."""
        now = time.monotonic()
        if now - self._since < PAUSE or freed - self._freed < WORTH:
            return False
        self._freed, self._since = freed, now
        give_back()
        return True


def _glibc() -> ctypes.CDLL | None:
    """The process's own C library; None on Windows, which has no name for it."""
    return None if sys.platform == "win32" else ctypes.CDLL(None)
