"""Mutated frames against a host, plain and over TLS, and a long soak with clients that come, go and are killed.

Each piece is kept in `results/hostile.part.jsonl` when it is done; a run goes on with what is missing there, or in the
last result.
`--render` makes the result of what is there, which says how many frames and minutes it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import common
import psutil
import torch
from heap import threads_mb
from mutants import Attacker, fuzz
from soakers import Soakers, Stage, bundles, growth, state
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.remote.address import parse_address
from lsplit_kit.remote.allocator import give_back
from lsplit_kit.remote.tls import Ticket
from lsplit_kit.remote.token import find_token

DOORS, KINDS, MB = ("plain", "TLS"), ("bytes", "fields"), 1e6
SAYS = {"bytes": "good frames with changed bits, cuts, insertions", "fields": "calls with fields of other kinds"}
PROMPT = torch.tensor([[5, 9, 17, 40, 3]])


def seconds_of(rows: list[dict[str, Any]]) -> float:
    """Of all pieces of the soak."""
    return sum(row["seconds"] for row in rows if row["part"] == "soak")


def frames_of(rows: list[dict[str, Any]], door: str = "", kind: str = "") -> int:
    """Frames sent so far, of one door or kind where it is named."""
    fuzzed = [row for row in rows if row["part"] == "fuzz"]
    return sum(row["frames"] for row in fuzzed if row["door"].startswith(door) and row["kind"].startswith(kind))


def fuzz_pieces(door: str, wanted: int, piece: int, rows: list[dict[str, Any]], keep: Callable[[dict], None]) -> None:
    """What is missing of one door's frames, half of each kind, against one host process."""
    missing = {kind: wanted // 2 - frames_of(rows, door, kind) for kind in KINDS}
    if max(missing.values()) <= 0:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = bundles(Path(name))
        options: dict[str, Any] = {"tls": folder} if door == "TLS" else {}
        with lk.host("toy-llama", 2, 2, batch_window_ms=0.0, **options) as host:
            where, process = parse_address(host.address), psutil.Process(host.pid)
            ticket, token = Ticket(folder / "ann.pem"), None if door == "TLS" else find_token(*where)
            wrap = (lambda sock: ticket.enter(sock, where[0], host.address)[0]) if door == "TLS" else None

            def attacker() -> Attacker:
                return Attacker(where, token, wrap)

            certificate = {"certificate": folder / "bo.pem"} if door == "TLS" else {}
            model = lk.load("toy-llama")[0]
            want, neighbour = model(PROMPT).logits, lk.split(model, head=2, tail=2, body=host.address, **certificate)
            fuzz(attacker, "bytes", 500, seed=0)
            before = process.memory_info().rss
            for kind, left in missing.items():
                for _ in tqdm(range(0, left, piece), desc=f"{door}, {kind}"):
                    seed = 1 + sum(row["part"] == "fuzz" for row in rows)
                    heard = fuzz(attacker, kind, piece, seed)
                    keep({
                        "part": "fuzz", "door": door, "kind": kind, "frames": piece, "seed": seed, "heard": dict(heard),
                        "neighbour": torch.equal(neighbour(PROMPT).logits, want), "alive": host.running,
                        "grown_mb": round((process.memory_info().rss - before) / MB, 1),
                        "threads": process.num_threads(),
                    })  # fmt: skip


def soak_pieces(
    wanted: float,
    piece: float,
    clients: int,
    processes: int,
    rows: list[dict[str, Any]],
    keep: Callable[[dict], None],
) -> None:
    """What is missing of the soak, on one stage; a run that goes on later has a stage of its own."""
    run = 1 + max((row["run"] for row in rows if row["part"] == "soak"), default=0)
    if seconds_of(rows) >= wanted:
        return
    with tempfile.TemporaryDirectory() as name, Stage(Path(name)) as stage:
        Soakers(stage, clients, processes=processes).run(min(10.0, piece))
        assert stage.empty()
        before = state()
        while (left := wanted - seconds_of(rows)) > 0:
            soakers = Soakers(stage, clients, 1 + len(rows), processes)
            seen = soakers.run(min(piece, left))
            empty, after = stage.empty(), state()
            last = left <= piece
            if last:
                give_back()
            keep({
                "part": "soak", "run": run, "seconds": min(piece, left), "clients": clients, "processes": processes,
                "done": dict(soakers.done),
                "wrong": len(soakers.wrong), "said": sorted(set(soakers.wrong))[:3], "empty": empty,
                "mb": round(median(s["mb"] for s in seen), 1), "grown_in_piece": round(growth(seen), 1),
                "grown_mb": round(after["mb"] - before["mb"], 1),
                "live_grown_mb": round(after["live"] - before["live"], 2),
                "given_back_mb": round(after["mb"] - state()["mb"], 1) if last else 0.0,
                "descriptors": after["descriptors"] - before["descriptors"],
                "threads": after["threads"] - before["threads"], "evictions": stage.body.pool.evictions,
            })  # fmt: skip


def control_piece(rows: list[dict[str, Any]], keep: Callable[[dict], None]) -> None:
    """As many threads as the soak had connections, which do nothing but multiply two matrices."""
    done = sum((Counter(row["done"]) for row in rows if row["part"] == "soak"), Counter[str]())
    came = sum(done[name] for name in ("joined plain", "joined over TLS", "joined from processes", "killed"))
    if not any(row["part"] == "control" and row["threads"] == came for row in rows):
        keep({"part": "control", "threads": came, "mb": threads_mb(came)})


def result_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums of the pieces."""
    fuzzed, soaked = ([row for row in rows if row["part"] == part] for part in ("fuzz", "soak"))
    table = []
    for door in DOORS:
        for kind in KINDS:
            of = [row for row in fuzzed if (row["door"], row["kind"]) == (door, kind)]
            heard = sum((Counter(row["heard"]) for row in of), Counter[str]())
            table.append({
                "door": door, "kind": kind, "frames": sum(row["frames"] for row in of), "heard": dict(heard),
                "grown_mb": max((row["grown_mb"] for row in of), default=0.0),
                "threads": max((row["threads"] for row in of), default=0),
                "served": all(row["alive"] and row["neighbour"] for row in of),
            })  # fmt: skip
    done = sum((Counter(row["done"]) for row in soaked), Counter[str]())
    return {
        "fuzz": table,
        "soak": {
            "seconds": seconds_of(rows), "runs": len({row["run"] for row in soaked}), "done": dict(done),
            "clients": max((row["clients"] for row in soaked), default=0),
            "processes": max((row["processes"] for row in soaked), default=0),
            "longest": max((_of_run(soaked, row["run"]) for row in soaked), default=0.0),
            "wrong": sum(row["wrong"] for row in soaked), "left": sum(not row["empty"] for row in soaked),
            "grown_mb": max((row["grown_mb"] for row in soaked), default=0.0),
            "live_grown_mb": max((row["live_grown_mb"] for row in soaked), default=0.0),
            "given_back_mb": max((row["given_back_mb"] for row in soaked), default=0.0),
            "descriptors": max((row["descriptors"] for row in soaked), default=0),
            "threads": max((row["threads"] for row in soaked), default=0),
        },
        "control": next((row for row in reversed(rows) if row["part"] == "control"), {"threads": 0, "mb": 0.0}),
        "pieces": rows,
    }  # fmt: skip


def _of_run(soaked: list[dict[str, Any]], run: int) -> float:
    return sum(row["seconds"] for row in soaked if row["run"] == run)


def render(r: dict[str, Any]) -> str:
    """The Markdown of what was run."""
    head = ["door", "frames", "how many", "answered", "typed error", "connection ended", "silence", "failed inside",
            "memory grown (MB)", "a neighbour's logits"]  # fmt: skip
    rows = []
    for x in r["fuzz"]:
        heard = Counter(x["heard"])
        ended = {name: heard.pop(name, 0) for name in ("answer", "end", "silence", "host-error")}
        rows.append([
            x["door"], SAYS[x["kind"]], f"{x['frames']:,}", f"{ended['answer']:,}", f"{sum(heard.values()):,}",
            f"{ended['end']:,}", ended["silence"], ended["host-error"], x["grown_mb"],
            "bit-equal" if x["served"] else "**not equal**",
        ])  # fmt: skip
    s = r["soak"]
    done = Counter(s["done"])
    soaked = [
        ["minutes, all runs (longest run)", f"{s['seconds'] / 60:.1f} ({s['longest'] / 60:.1f})"],
        ["clients at once, and how many of them are processes", f"{s['clients']} and {s['processes']}"],
        ["joined, plain and over TLS", f"{done['joined plain']:,} and {done['joined over TLS']:,}"],
        ["replies, greedy, compared with the unsplit model's", f"{done['replies']:,}"],
        ["connections of these that were reset in the middle", f"{done['killed']:,}"],
        [
            "processes killed (SIGKILL), and how often they had joined",
            f"{done['killed processes']:,} and {done['joined from processes']:,}",
        ],
        ["their recorded texts, compared with what came down", f"{done['texts of processes']:,}"],
        ["replies that were another, or an error", s["wrong"]],
        ["pieces after which something of a client was left", s["left"]],
        ["bytes in use more than after the warm-up, at most (MB)", s["live_grown_mb"]],
        [
            f"bytes in use after {r['control']['threads']:,} threads that only multiply two matrices (MB)",
            r["control"]["mb"],
        ],
        ["memory of the process grown since the warm-up, at most (MB)", s["grown_mb"]],
        ["of it given back by `malloc_trim` at the end (MB)", s["given_back_mb"]],
        ["descriptors and threads more than before, at most", f"{s['descriptors']} and {s['threads']}"],
    ]
    frames = sum(x["frames"] for x in r["fuzz"])
    said = (
        f"{frames:,} frames by seed, against a host process of `toy-llama` each, whose other client goes on meanwhile. "
        "*Answered*: some mutations leave a frame whole, or change a number to another one."
    )
    also = (
        f"{s['seconds'] / 60:.1f} minutes of clients that join, ask for one to four replies and leave; one in four has "
        "its connection reset at a random moment, and connects and replays. Host and these clients are one process, "
        "with one body behind two doors, next tokens computed together, and memory for about two sessions. Other "
        "clients are processes without a model, which send recorded vectors until they are killed. What is *in use* is "
        "what the C library counts as asked for and not freed, when all clients have gone. For every thread that ever "
        "multiplied matrices, and every connection is one, the matrix library below torch keeps an entry of a table, "
        "which it doubles: the control shows it, as many threads without any host. The rest of a process's memory is "
        "gaps that its allocator keeps."
    )
    goals = [
        ["100,000 mutated frames, half of them over TLS", _yes(min(_sum(r, door) for door in DOORS) >= 50_000)],
        ["30 minutes with 10 clients", _yes(s["longest"] >= 1800 and s["clients"] >= 10)],
        ["no failure inside, no silence", _yes(not any(Counter(x["heard"])[n] for x in r["fuzz"]
                                                       for n in ("host-error", "silence")))],
        ["memory grown at most 32 MB", _yes(max(x["grown_mb"] for x in [*r["fuzz"], s]) <= 32)],
        ["bytes in use after the soak, beside those of the control, at most 1 MB more",
         _yes(s["live_grown_mb"] - r["control"]["mb"] <= 1)],
        ["no wrong reply, nothing left", _yes(max(s[n] for n in ("wrong", "left", "descriptors", "threads")) <= 0)],
    ]  # fmt: skip
    tables = [(said, head, rows), (also, ["soak", ""], soaked), ("", ["target", "met in what was run"], goals)]
    return "\n\n".join(part for text, *one in tables for part in (text, common.table(*one)) if part)


def _sum(r: dict[str, Any], door: str) -> int:
    return sum(x["frames"] for x in r["fuzz"] if x["door"] == door)


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


def known(part: Path, fresh: bool) -> list[dict[str, Any]]:
    """The pieces there are, of a run that was stopped or else of the last result."""
    last = common.RESULTS / "hostile.json"
    if not fresh and not part.exists() and last.exists():
        pieces = json.loads(last.read_text("utf-8"))["pieces"]
        part.write_text("".join(json.dumps(row) + "\n" for row in pieces), "utf-8")
    return [json.loads(line) for line in part.read_text("utf-8").splitlines()] if part.exists() else []


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = common.options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=50_000, help="for each door")
    parser.add_argument("--seconds", type=float, default=1800.0, help="of the soak")
    parser.add_argument("--clients", type=int, default=12, help="at once")
    parser.add_argument("--processes", type=int, default=4, help="of the clients those that are processes of their own")
    parser.add_argument("--fresh", action="store_true", help="forget the pieces of a run that was stopped")
    parser.add_argument("--render", action="store_true", help="run nothing, make the result of the pieces there are")
    return parser


def main() -> None:
    """Measure and report."""
    args = options().parse_args()
    common.one_thread()
    part = common.RESULTS / f"hostile{'-quick' if args.quick else ''}.part.jsonl"
    if args.fresh or args.quick:
        part.unlink(missing_ok=True)
    rows = known(part, fresh=args.fresh or args.quick)

    def keep(row: dict) -> None:
        rows.append(row)
        with part.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    if not args.render:
        for door in DOORS:
            fuzz_pieces(door, 400 if args.quick else args.frames, 200 if args.quick else 5000, rows, keep)
        quick = (6.0, 3.0, 4, 1)
        soak_pieces(*(quick if args.quick else (args.seconds, 60.0, args.clients, args.processes)), rows, keep)
        control_piece(rows, keep)
    result = result_of(rows)
    common.finish("hostile", args, result, render(result))


if __name__ == "__main__":
    main()
