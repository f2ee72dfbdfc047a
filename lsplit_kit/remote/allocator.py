"""How a host's process keeps the memory that it has given back to itself."""

from __future__ import annotations

import ctypes

ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h


def one_arena() -> None:
    """Let all threads allocate from one arena (glibc; nothing elsewhere); call it before there are threads.

    By default every connection's thread has an arena of its own, and each keeps the room of the largest step it ever
    computed: twenty connections cost as much again as their sessions. A host computes one step at a time, so threads
    hardly ever wait for the one arena.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(ARENA_MAX, 1)
