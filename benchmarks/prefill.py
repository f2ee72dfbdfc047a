"""The part of round_trips.py about long prompts: in pieces that are under way at once, against one piece."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import common
import torch

import lsplit_kit as lk
from lsplit_kit.wire.network import Network

NET, GOAL = Network(up_mbps=20, down_mbps=20, rtt_ms=80), 0.2
CHUNKS, HOSTS, TOKENS = (None, 128, 256, 512), (1, 2, 10), 2048


def measure(args: Any, kept: dict[str, Any], save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Seconds to the first token, every piece length in turn; host speeds are charged on the virtual clock."""
    rounds, tokens = (1, 256) if args.quick else (5, TOKENS)
    part = {"rows": [], **kept, "model": args.model, "plan": [2, 2], "codec": "fp16", "network": str(NET),
            "prompt": tokens, "rounds": rounds}  # fmt: skip
    model = lk.load(args.model)[0]
    ids = torch.randint(5, 40_000, (1, tokens), generator=torch.Generator().manual_seed(0))
    for turn in range(rounds):
        for host in HOSTS:
            for chunk in CHUNKS:
                if any((r["round"], r["host_speed"], r["chunk"]) == (turn, host, chunk) for r in part["rows"]):
                    continue
                lm = lk.split(model, head=2, tail=2, codec="fp16", body="loopback", network=NET, chunk=chunk)
                with lm.link.timed(host_speed=host) as run:
                    out = lm.generate(ids, max_new_tokens=1, do_sample=False, pad_token_id=0)
                part["rows"].append({"round": turn, "host_speed": host, "chunk": chunk, "seconds": run.seconds,
                                     "token": int(out[0, -1])})  # fmt: skip
                save(part)
    return part


def seconds(rows: list[dict[str, Any]], host: int, chunk: int | None) -> float:
    """Median of the rounds."""
    return median(r["seconds"] for r in rows if (r["host_speed"], r["chunk"]) == (host, chunk))


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """prefill_speedup: time saved by the best piece length, by host speed."""
    hosts = [h for h in HOSTS if all(any((r["host_speed"], r["chunk"]) == (h, c) for r in rows) for c in CHUNKS)]
    best = {str(h): 1 - min(seconds(rows, h, c) for c in CHUNKS) / seconds(rows, h, None) for h in hosts}
    return {"prefill_speedup": best, "prefill_identical": len({r["token"] for r in rows}) == 1}


def render(part: dict[str, Any]) -> str:
    """The part as Markdown."""
    found, cells = judged(part["rows"]), []
    for host in HOSTS:
        whole = seconds(part["rows"], host, None)
        for chunk in CHUNKS:
            took = seconds(part["rows"], host, chunk)
            cells.append([f"{host} x", chunk or "one piece", f"{took:.2f}", f"{1 - took / whole:+.1%}"])
    said = (
        f"### Long prompts\n\n`{part['model']}`, head {part['plan'][0]} / tail {part['plan'][1]}, `{part['codec']}`, "
        f"{part['prompt']} random tokens, {part['network']}; seconds to the first token on a virtual clock with "
        f"measured CPU time, medians of {part['rounds']} rounds. The first token is the same in all: "
        f"{'yes' if found['prefill_identical'] else 'no'}. Goal: {GOAL:.0%} less; "
        + "; ".join(f"{v:.1%} with a host {h} x as fast as here" for h, v in found["prefill_speedup"].items())
        + "."
    )
    return f"{said}\n\n{common.table(['host', 'positions a piece', 'seconds', 'saved'], cells)}"
