"""The emulated link against the kernel's own shaper: the same rate by `tc tbf` in a network namespace."""

import json
import os
import shutil
import subprocess
import sys

import pytest

SPACE, RATE = "lsplit-shaper", 4  # Mbit/s
CHILD = """
import json, statistics, sys, time
import numpy as np
import lsplit_kit as lk
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.wire.emulated import EmulatedLink
from lsplit_kit.wire.message import Open, Step

def steps(link, rounds=5):
    session, spent = link.open(Open("kv", "fp32", "fp32")), []
    payload = np.zeros((8, 32, link.info.width), "<f4").tobytes()
    for number in range(rounds):
        began = time.perf_counter()
        done = link.step(session, Step(number + 1, 0, 8, 32, payload))
        spent.append(time.perf_counter() - began)
    return min(spent), done.frame_up + done.frame_down

with lk.host("toy-llama", head=1, tail=1) as host, RpycLink(host.address) as link:
    print("ready", flush=True)
    free, size = steps(link)
    shaped_by_us, _ = steps(EmulatedLink(link, up_mbps=RATE, down_mbps=RATE, realtime=True))
    print(json.dumps([free, shaped_by_us, size]), flush=True)
    sys.stdin.readline()  # the shaper is on from here
    print(json.dumps(steps(link)), flush=True)
"""


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.fixture
def space():
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("a network namespace needs Linux and root")
    if not (shutil.which("ip") and shutil.which("tc")):
        pytest.skip("ip and tc (Debian's iproute2) are not installed")
    name = f"{SPACE}-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
    try:
        run("ip", "-n", name, "link", "set", "lo", "mtu", "1500", "up")
        yield name
    finally:
        run("ip", "netns", "del", name)


def test_the_kernels_shaper_takes_as_long_as_the_formula_and_the_emulated_link(space, tmp_path):
    child = subprocess.Popen(
        ["ip", "netns", "exec", space, sys.executable, "-c", CHILD.replace("RATE", str(RATE))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"LSPLIT_HOME": str(tmp_path)},  # from in there, hosts out here look gone: not their tokens
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "ready\n"
        free, ours, size = json.loads(child.stdout.readline())
        try:
            run("tc", "-n", space, "qdisc", "add", "dev", "lo", "root", "tbf", "rate", f"{RATE}mbit",
                "burst", "3000", "latency", "2s")  # fmt: skip
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this kernel has no token bucket filter: {error.stderr.strip()}")
        child.stdin.write("\n")
        child.stdin.flush()
        kernels, _ = json.loads(child.stdout.readline())
    finally:
        child.kill()
        child.wait()
    wire = size * 8e-6 / RATE  # quarter of a second, against which a busy machine's delays are small
    assert wire > 0.2
    # the kernel shapes packets with 66 bytes of headers, 1448 of data, and the acknowledgements beside them
    assert kernels - free == pytest.approx(wire, rel=0.2)
    assert ours - free == pytest.approx(wire, rel=0.2)
