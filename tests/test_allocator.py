"""A host's threads share one arena: what one step needed is there for the next, whoever asks."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import ctypes, sys, threading
from lsplit_kit.remote.allocator import one_arena
if sys.argv[1] == "one":
    one_arena()
libc, together = ctypes.CDLL(None), threading.Barrier(4)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
def allocate():
    together.wait()
    libc.malloc(50_000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are of glibc's allocator")
@pytest.mark.parametrize(("asked", "one"), [("one", True), ("default", False)])
def test_threads_share_one_arena(asked, one, tmp_path):
    subprocess.run([sys.executable, "-c", COUNT, asked, str(tmp_path / "arenas")], check=True, timeout=120)
    assert ((tmp_path / "arenas").read_text().count("<heap nr=") == 1) is one
