"""What this process has asked for and not given back, and what the allocator keeps of the rest (glibc)."""

from __future__ import annotations

import ctypes


class _Counts(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
                     "keepcost")
    ]  # fmt: skip


def live_mb() -> float | None:
    """Megabytes in use, those of tensors included; None where the C library does not count them.

    Memory of the process that is not among them is free: gaps between what is used, kept for later.
    """
    count = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if count is None:
        return None
    count.restype = _Counts
    counts = count()
    return (counts.uordblks + counts.hblkhd) / 1e6
