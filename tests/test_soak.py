"""A minute with a class: clients come, talk, leave or are killed, and nothing of them stays.

`benchmarks/hostile.py` does it for longer and with more clients.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from soakers import Soakers, Stage, growth, state

torch.set_num_threads(1)
SECONDS, CLIENTS, PROCESSES = 60.0, 6, 1


@pytest.mark.timeout(240)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts descriptors")
def test_a_minute_with_a_class_leaves_nothing(tmp_path):
    with Stage(tmp_path) as stage:
        warm = Soakers(stage, CLIENTS, 1, PROCESSES)
        warm.run(3.0)  # arenas, lazy imports, what torch makes once
        assert stage.empty()
        before, class_ = state(), Soakers(stage, CLIENTS, 2, PROCESSES)
        seen = class_.run(SECONDS - 3.0)
        assert stage.empty(), (stage.body.pool.held(), stage.turns.queued())
        after = state()
        assert not class_.wrong, class_.wrong[:3]
        assert min(class_.done[what] for what in ("joined plain", "joined over TLS", "killed", "replies")) > 5
        assert class_.done["killed processes"] > 5 and class_.done["texts of processes"] > 5
        assert stage.body.pool.evictions > 0 and max(stage.turns.rows) > 1
        assert after["descriptors"] <= before["descriptors"] and after["threads"] <= before["threads"]
        assert growth(seen) < 16 and after["mb"] - before["mb"] < 32
        assert after["live"] - before["live"] < 4  # what the allocator keeps free is not among it
