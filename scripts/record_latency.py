"""Record the latency model that ships with the kit: `python scripts/record_latency.py` (two minutes, one core)."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd

import lsplit_kit as lk
from lsplit_kit.measure import latency_model
from lsplit_kit.measure.latency import HOST, LOCAL, calibration_runs
from lsplit_kit.measure.recorded import FOLDER
from lsplit_kit.wire.network import Network


def machine() -> str:
    """What this machine's processor calls itself, and how many cores of it there are."""
    cpu = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.*)", cpu.read_text()) if cpu.exists() else None
    return f"{name[1].strip() if name else 'an unnamed processor'}, {os.cpu_count()} cores, one thread"


def main() -> None:
    """Measure and write one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--head", type=int, default=2)
    parser.add_argument("--tail", type=int, default=2)
    options = parser.parse_args()
    lk.setup(seed=0)
    model, _ = lk.load(options.model)
    # The round trip shows how often a session is opened; it costs no time on the clock that counts computing.
    lm = lk.split(model, head=options.head, tail=options.tail, body="loopback", network=Network(rtt_ms=50))
    found = latency_model(lm, prompts=(8, 32, 64, 128), new_tokens=12, repeats=5,
                          report=lambda done, of: print(f"round {done + 1} of {of}", flush=True))  # fmt: skip
    when = datetime.date.today().isoformat()
    where = f"{machine()}, {when}, head {options.head} / tail {options.tail}, {lm.remote.up.spec}"
    path = FOLDER / f"{options.model}.latency.json"
    replace(found, name=options.model, recorded=where).save(path)
    tables = [table for _ in range(3) for table in calibration_runs(lm, prompts=(8, 32, 64, 128), new_tokens=4)]
    steps = pd.concat(tables).groupby(["tokens", "past"]).median().reset_index()
    rows = {
        side: steps[list(parts)].sum(axis=1).round(6).tolist() for side, parts in (("local", LOCAL), ("host", HOST))
    }
    raw = {"recorded": where, "tokens": steps["tokens"].tolist(), "past": steps["past"].tolist(), **rows}
    (FOLDER / f"{options.model}.steps.json").write_text(json.dumps(raw, indent=1) + "\n", "utf-8")
    print(path.name, "\n", found)


if __name__ == "__main__":
    main()
