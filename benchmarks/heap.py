"""What this process has asked for and not given back, and what the allocator keeps of the rest (glibc).

`python benchmarks/heap.py 8192`: megabytes that are in use after so many threads which only multiply two matrices.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading


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


def threads_mb(count: int) -> float:
    """Megabytes in use after `count` threads, one after the other, that only multiply two matrices, in a process alone.

    For each thread that ever multiplied the matrix library below torch keeps an entry of a table, which it doubles.
    """
    done = subprocess.run([sys.executable, __file__, str(count)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _multiply(count: int) -> None:
    import torch

    torch.set_num_threads(1)
    matrix = torch.randn(64, 64)
    before = None
    for _ in range(count):
        thread = threading.Thread(target=lambda: matrix @ matrix)
        thread.start()
        thread.join()
        before = before if before is not None else live_mb()
    print(round((live_mb() or 0.0) - (before or 0.0), 2))


if __name__ == "__main__":
    _multiply(int(sys.argv[1]))
