"""A host's threads share one arena, and what is free in it is given back to the system, now and then."""

import itertools
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.models.partial import load_body
from lsplit_kit.remote import allocator
from lsplit_kit.split.pool import Pool
from lsplit_kit.wire.message import Open, Step

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


@pytest.fixture
def clock(monkeypatch):
    """(time that can be set, when memory was given back)."""
    now, given = [100.0], []
    monkeypatch.setattr(allocator.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(allocator, "give_back", lambda: given.append(now[0]))
    return now, given


def test_memory_is_given_back_seldom_and_where_it_is_worth_it(clock):
    now, given = clock
    returns = allocator.Returns()
    for tick in range(500):  # as a host looks, under eviction: 10 MB each time
        now[0] = 100 + tick / 5
        returns.look(tick * 10_000_000)
    assert len(given) == 19 and min(b - a for a, b in itertools.pairwise(given)) >= allocator.PAUSE
    before = len(given)
    for _ in range(100):  # little is let go of, and then no more
        now[0] += 1
        returns.look(500 * 10_000_000)
    assert len(given) == before + 1
    returns.look(500 * 10_000_000 + allocator.WORTH - 1)
    assert len(given) == before + 1
    now[0] += 0.2
    assert returns.look(500 * 10_000_000 + allocator.WORTH) and len(given) == before + 2


@pytest.mark.parametrize("how", ["closed", "forgotten", "lent"])
def test_the_pool_counts_what_is_let_go_of(how):
    first = load_body("toy-llama", 1, 1)
    first.pool = Pool(piece=4)
    bodies = [first.fork(), first.fork()]
    numbers = [body.open(Open("none" if how == "lent" else "kv", "fp32", "fp32")) for body in bodies]
    work = bodies[0].work(numbers[0], Step(0, 0, 1, 16, bytes(4 * 16 * first.info.width)))
    for _ in work:
        pass
    size, freed = first.pool.bytes, first.pool.freed
    if how == "lent":
        assert freed > 0
        return
    assert freed == 0
    if how == "forgotten":
        first.pool.idle = -1.0
        first.pool.sweep()
    else:
        bodies[0].close()
    assert first.pool.freed == size - first.pool.bytes > 0


def test_a_host_gives_memory_back(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    with lk.host("toy-llama", 1, 1, loader="test_allocator:eager") as host:
        lm = lk.split(lk.load("toy-llama")[0], head=1, tail=1, body=host.address)
        lm(torch.arange(5, 14)[None])
        lm.close()
        end = time.monotonic() + 20
        while "memory was given back" not in host.stderr() and time.monotonic() < end:
            time.sleep(0.05)
        assert "memory was given back" in host.stderr()


def eager(*model):
    """The loader of a host that gives back each byte at once, and says so."""
    allocator.PAUSE, allocator.WORTH = 0.0, 1
    allocator.give_back = lambda: print("memory was given back", file=sys.stderr, flush=True)
    return load_body(*model)
