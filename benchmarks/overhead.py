"""What a split costs: tokens per second of four ways to run a model, one call's round trip, a frame's bytes."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import common
import torch
from echo import read

import lsplit_kit as lk
from lsplit_kit.remote.client import RpycLink

ECHO = Path(__file__).resolve().with_name("echo.py")
PROMPT = "A language model is cut in three. The first part of it stays on this machine, and"
KIB = (1, 4, 16, 64)
TARGETS = {"in process": 0.97, "rpyc": 0.93}
CALL_TARGET, FRAME_TARGET = 2.5, 64


def generation(name: str, head: int, tail: int, tokens: int, rounds: int) -> tuple[dict, dict]:
    """Tokens/s of unsplit, in process, loopback and RPyC, interleaved; and the frame of one decode step."""
    model, tok = lk.load(name)
    ids = tok(PROMPT, return_tensors="pt")["input_ids"][:, :64]

    def runner(lm: Any, count: int = tokens) -> Callable[[], float]:
        def run() -> float:
            lm.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)
            return 0.0

        return lambda: count / common.seconds(run)

    with ExitStack() as stack:
        host = stack.enter_context(lk.host(name, head=head, tail=tail))
        lms = {"unsplit": model}
        for label, body in (("in process", None), ("loopback", "loopback"), ("rpyc", host.address)):
            lms[label] = lk.split(model, head=head, tail=tail, body=body)
            stack.callback(lms[label].close)
        for lm in lms.values():
            runner(lm, 4)()  # first calls allocate
        speed = common.in_turn({label: runner(lm) for label, lm in lms.items()}, rounds)
        with lk.tap(lms["rpyc"]) as wire:
            runner(lms["rpyc"], 4)()
        steps = [c for c in wire.crossings if c.kind == "step"][2:]  # the first step is the prompt
        frames = {
            way: {
                "payload": max(c.payload for c in steps if c.direction == way),
                "beyond": max(c.frame - c.payload for c in steps if c.direction == way),
            }
            for way in ("up", "down")
        }
    rows = {}
    for label, values in speed.items():
        ratios = [v / u for v, u in zip(values, speed["unsplit"], strict=True)]
        rows[label] = {
            "tokens_per_s": round(statistics.median(values), 2),
            "best": round(max(values), 2),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_of_best": round(max(values) / max(speed["unsplit"]), 3),
        }
    return {"prompt_tokens": ids.shape[1], "new_tokens": tokens, "rounds": rounds, "rows": rows}, frames


@contextmanager
def child(kind: str, core: int | None) -> Iterator[int]:
    """An echo child's port; it ends with the block."""
    command = [sys.executable, str(ECHO), kind, *([] if core is None else [str(core)])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(10)


def round_trips(calls: int) -> list[dict]:
    """Calls with n KiB up and down through the kit's connection, next to a bare TCP echo; microseconds."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    mine, theirs = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    if mine is not None:
        os.sched_setaffinity(0, {mine})
    try:
        with child("tcp", theirs) as tcp, child("rpyc", theirs) as kit, ExitStack() as stack:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", tcp)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = stack.enter_context(RpycLink(f"rpyc://127.0.0.1:{kit}"))
            return [_one_size(link, sock, kib, calls) for kib in KIB]
    finally:
        if mine is not None:
            os.sched_setaffinity(0, set(cores))


def _one_size(link: RpycLink, sock: socket.socket, kib: int, calls: int) -> dict:
    payload = os.urandom(kib * 1024)
    message = len(payload).to_bytes(4, "big") + payload

    def through_kit() -> None:
        assert len(link._call("echo", (payload,), (bytes,))[0]) == len(payload)

    def through_tcp() -> None:
        sock.sendall(message)
        assert read(sock, memoryview(bytearray(len(message))))

    took: dict[str, list[float]] = {"kit": [], "tcp": []}
    for _ in range(calls // 20):  # blocks of 20 in turn: a switch costs both the same
        for name, call in (("kit", through_kit), ("tcp", through_tcp)):
            for _ in range(20):
                begin = time.perf_counter()
                call()
                took[name].append((time.perf_counter() - begin) * 1e6)
    best, middle = ({name: pick(values) for name, values in took.items()} for pick in (min, statistics.median))
    return {
        "kib": kib,
        **{name: round(value, 1) for name, value in best.items()},
        "ratio": round(best["kit"] / best["tcp"], 2),
        **{f"{name}_median": round(value, 1) for name, value in middle.items()},
        "ratio_of_medians": round(middle["kit"] / middle["tcp"], 2),
    }


def verdicts(speed: dict, calls: list[dict], frames: dict) -> dict[str, bool]:
    """Every target and whether this run met it."""
    met = {f"{k} >= {v} of unsplit": speed["rows"][k]["ratio"] >= v for k, v in TARGETS.items()}
    worst = max(row["ratio"] for row in calls if row["kib"] >= 4)
    met[f"call <= {CALL_TARGET} x bare TCP at 4-64 KiB"] = worst <= CALL_TARGET
    met[f"decode frame <= payload + {FRAME_TARGET} bytes"] = max(f["beyond"] for f in frames.values()) <= FRAME_TARGET
    return met


def conditions(r: dict) -> str:
    """How the speeds were measured."""
    s, (head, tail) = r["speed"], r["plan"]
    return (
        f"`{r['model']}`, head {head} / tail {tail}, fp32, "
        f"{s['prompt_tokens']} prompt and {s['new_tokens']} new tokens, "
        f"greedy, one thread a process; medians of {s['rounds']} rounds in turn, "
        "a ratio being the median of the rounds' own."
    )


def render(r: dict) -> str:
    """The result as Markdown."""
    s = r["speed"]
    parts = [
        conditions(r),
        common.table(
            ["way", "tokens/s", "ratio to unsplit", "best run's tokens/s", "ratio of best runs"],
            [[k, *(v[c] for c in ("tokens_per_s", "ratio", "best", "ratio_of_best"))] for k, v in s["rows"].items()],
        ),
        "One call with as many bytes up as down, client and host pinned to a core each; fastest and median of "
        f"{r['calls_per_size']} calls, microseconds. The fastest bare echo is one where neither core had time to fall "
        "asleep; the median pays for waking both, as every real call does.",
        common.table(
            ["KiB", "kit", "bare TCP echo", "ratio", "kit, median", "bare TCP echo, median", "ratio of medians"],
            [
                [c[k] for k in ("kib", "kit", "tcp", "ratio", "kit_median", "tcp_median", "ratio_of_medians")]
                for c in r["calls"]
            ],
        ),
        "One decode step over RPyC, bytes.",
        common.table(
            ["direction", "payload", "frame beyond payload"],
            [[k, v["payload"], v["beyond"]] for k, v in r["frames"].items()],
        ),
        common.table(["target", "met in this run"], [[k, "yes" if v else "no"] for k, v in r["targets"].items()]),
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=0)
    args = parser.parse_args()
    common.one_thread()
    tokens, rounds, calls = (8, 1, 100) if args.quick else (32, 9, 2000)
    with torch.inference_mode():
        speed, frames = generation(args.model, 2, 2, tokens, args.rounds or rounds)
    trips = round_trips(calls)
    result = {
        "model": args.model,
        "plan": [2, 2],
        "speed": speed,
        "calls_per_size": calls,
        "calls": trips,
        "frames": frames,
        "targets": verdicts(speed, trips, frames),
    }
    common.finish("overhead", args, result, render(result))


if __name__ == "__main__":
    main()
