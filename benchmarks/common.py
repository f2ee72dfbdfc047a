"""What the benchmarks share: one thread, repetitions in turn, one JSON object on the last line, a results file.

Import this before torch: the thread count is read when torch starts.
"""

from __future__ import annotations

import argparse
import json
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import platform  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterable  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("lsplit-kit", "torch", "transformers", "rpyc")


def options(what: str) -> argparse.ArgumentParser:
    """The command line that every benchmark has."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it run at all?")
    parser.add_argument("--json", action="store_true", help="print the JSON object only")
    return parser


def one_thread() -> None:
    """One torch thread: two processes on two cores with two threads each collapse, and counts change the bits."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def in_turn(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every variant once a round, beginning with another one each round; returns what each call returned.

    A busy machine slows neighbours in time alike, so only values of the same round are compared.
    """
    names, found = list(variants), {name: [] for name in variants}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            found[name].append(variants[name]())
    return found


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call in seconds."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table, numbers to the right."""
    names, lines = list(head), [[str(v) for v in row] for row in rows]
    right = [all(line[i][:1].isdigit() or line[i][:1] == "-" for line in lines) for i in range(len(names))]
    marks = ["---:" if side else "---" for side in right]
    return "\n".join("| " + " | ".join(line) + " |" for line in [names, marks, *lines])


def machine() -> dict[str, object]:
    """Versions, processor and load: the conditions of a number, without names or paths."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    versions = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions, "system": platform.system(), "processor": model,
            "cores": os.cpu_count(), "threads": 1, "load": load}  # fmt: skip


def finish(name: str, args: argparse.Namespace, result: dict[str, object], text: str) -> None:
    """Write results/<name>.json (a quick run: <name>-quick.json), print the text, then one JSON line."""
    result = {"name": name, "quick": args.quick, "machine": machine(), **result}
    path = RESULTS / f"{name}{'-quick' if args.quick else ''}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if not args.json:
        print(text)
    print(json.dumps(result))


def by_rows(name: str, what: str, measure: Callable[..., dict], render: Callable[[dict], str]) -> None:
    """Run a benchmark whose rows are kept as they come: `measure(quick, rows, save)` goes on where it was stopped."""
    parser = options(what)
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    args = parser.parse_args()
    one_thread()
    path = RESULTS / f"{name}{'-quick' if args.quick else ''}.json"
    kept = json.loads(path.read_text("utf-8")) if path.exists() and not (args.fresh or args.quick) else {"rows": []}

    def save(rows: list[dict]) -> None:
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps({**kept, "rows": rows}, indent=1) + "\n", "utf-8")

    result = measure(args.quick, kept["rows"], save)
    finish(name, args, result, render(result))
