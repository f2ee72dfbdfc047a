"""Loading one side costs one side: peak memory of a child process against the bytes that the side needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(os.name == "nt", reason="needs getrusage")]
LOCAL = "side = lk.load_local('smollm2', 2, 2)"
START = "before = start()\n"
CASES = {
    # what to load after the imports, and the most that peak memory may grow per byte of the part itself
    "local": (START + LOCAL, 1.3),
    "body": (START + "side = load_body('smollm2', 2, 2).base", 1.2),
}
PROGRAM = '''
import json, resource, sys
import torch
torch.set_num_threads(1)
import lsplit_kit as lk
from lsplit_kit.models.partial import load_body

def peak():
    """Bytes; on Linux of this program alone: getrusage's number starts at the peak of the process that forked it."""
    if sys.platform == "linux":
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

def warm():  # allocator arenas, lazy imports and the library's own caches are no cost of this model
    from transformers import LlamaForCausalLM
    toy = lk.load("toy-llama")[0]
    lk.load_local("toy-llama", 2, 2), load_body("toy-llama", 2, 2)
    toy(torch.tensor([[1, 2, 3]]))

def start():
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak of the warm-up must not hide what comes
    except OSError:
        pass
    return peak()

warm()
LOAD
after = peak()
real = [p for p in side.parameters() if p.device.type != "meta"]
names = [n for n, p in side.named_parameters() if p.device.type != "meta"]
print(json.dumps({
    "growth": after - before,
    "bytes": sum(p.numel() * p.element_size() for p in {p.data_ptr(): p for p in real}.values()),
    "largest": max(p.numel() for p in real),
    "names": names,
    "vocabulary": side.config.vocab_size,
    "width": side.config.hidden_size,
    "aligned": all(p.data_ptr() % 64 == 0 for p in real),
}))
'''


def measured(load: str) -> dict:
    """Run the program in a fresh process, which has no peak of others to hide behind."""
    env = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("LOAD", load)], capture_output=True, text=True, timeout=250, env=env
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def table():
    import lsplit_kit as lk

    return lk.SplitPlan(2, 2).table(lk.load_local("smollm2", 2, 2))  # layers without weights still have their sizes


@pytest.mark.parametrize("side", CASES)
def test_peak_memory_is_the_side_itself(side, table, record_property):
    load, most = CASES[side]
    found = measured(load)
    planned = int(table.loc["body" if side == "body" else "head", "memory_bytes"])
    ratio = found["growth"] / planned
    record_property("ratio", round(ratio, 3))
    print(f"{side}: peak grew {found['growth']:,} bytes for {planned:,} planned: {ratio:.3f}")
    assert found["bytes"] == planned  # what is in memory is what the plan's table says, a tied tensor once
    assert found["aligned"]
    assert 0.5 < ratio <= most  # below a half something else has hidden the growth: the measurement is void


def test_a_host_holds_neither_ends_nor_their_sizes(table):
    found = measured(CASES["body"][0])
    assert found["largest"] < found["vocabulary"] * found["width"]
    outside = [n for n in found["names"] if not n.startswith("layers.")]
    assert not outside, "the host's base holds " + ", ".join(outside)
    assert {n.split(".")[1] for n in found["names"]} == {str(i) for i in range(26)}
    assert not any("embed" in n or "lm_head" in n for n in found["names"])


def test_the_local_side_has_no_layer_of_the_body():
    import lsplit_kit as lk

    model = lk.load_local("smollm2", 2, 2)
    real = {n.split(".")[2] for n, p in model.named_parameters() if "layers." in n and p.device.type != "meta"}
    assert real == {"0", "1", "28", "29"}
