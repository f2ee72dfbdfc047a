"""Load for one host from many clients, and what its memory does when their sessions do not fit."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import common
import psutil
import torch

import lsplit_kit as lk
from lsplit_kit.attacks import record
from lsplit_kit.data import prompts
from lsplit_kit.errors import Busy, CacheMiss
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.wire.message import Open, Step

PLAN, PROMPT, WINDOW_MS = (2, 2), 48, 5.0
LIMIT_MB, PIECE, LONG, LOOK = 10 / 3, 16, 80, 0.1  # of memory: a client's share, pieces and positions, seconds a look
TERMS = Open("kv", "fp32", "fp32")


def recorded() -> torch.Tensor:
    """Hidden vectors [T, d] of real texts after the head, in a row."""
    model, _ = lk.load("smollm2")
    capture = record(lk.split(model, head=PLAN[0], tail=PLAN[1]), [p.text for p in prompts(count=30)], longest=64)
    return torch.cat([t[0] for t in capture.tensors("up")])


class Client:
    """Sends vectors [T, d] of its own place in the recording; `seconds` holds what each token took."""

    def __init__(self, address: str, vectors: torch.Tensor, number: int) -> None:
        self.link, self.vectors, self.start = RpycLink(address, 300.0), vectors, 0
        self.offset, self.number = (997 * number) % len(vectors), 0
        self.session, self.seconds = self.link.open(TERMS), list[float]()

    def send(self, count: int) -> None:
        """The next `count` positions in one step."""
        self.ask(self.start, count)
        self.start += count

    def ask(self, start: int, count: int) -> None:
        """So many positions from `start` on."""
        at = (self.offset + start + torch.arange(count)) % len(self.vectors)
        payload = self.vectors[at].numpy().tobytes()
        self.number += 1
        self.link.step(self.session, Step(self.number, start, 1, count, payload, keep=1))

    def tokens(self, count: int) -> None:
        """So many single positions."""
        for _ in range(count):
            self.seconds.append(common.seconds(lambda: self.send(1)))


class Patient(Client):
    """As the kit's local side: what the host forgot is sent again, and a busy host is asked again."""

    replays = waits = 0

    def send(self, count: int) -> None:
        """The next `count` positions, and those before them where they were forgotten."""
        first, stop = self.start, self.start + count
        while self.start < stop:
            try:
                self.ask(first, stop - first)
                self.start = stop
            except CacheMiss:
                first, self.replays = 0, self.replays + 1
            except Busy as busy:
                self.waits += 1
                time.sleep(busy.retry_after)


def together(clients: Sequence[Client], work: Callable[[Client], object]) -> float:
    """Seconds until every client did its work, all at once; an error of one is raised."""
    failed: list[BaseException] = []

    def run(client: Client) -> None:
        try:
            work(client)
        except BaseException as err:
            failed.append(err)

    threads = [threading.Thread(target=run, args=(client,)) for client in clients]

    def go() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    took = common.seconds(go)
    if failed:
        raise failed[0]
    return took


def start(**sharing: Any) -> Any:
    """A host on one core; the load generator has the others."""
    host = lk.host("smollm2", *PLAN, **sharing)
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(host.pid, {0})
    return host


def memory(vectors: torch.Tensor, count: int, tokens: int, window: float | None) -> dict[str, Any]:
    """Many clients whose sessions do not fit, prompts in pieces: what the host counts and takes, looked at again and
    again, what it makes forget, and what the clients notice of it.
    """
    limit, failed, over = count * LIMIT_MB, list[str](), threading.Event()
    with start(batch_window_ms=window, max_clients=64, memory_mb=limit, prefill_piece=PIECE) as host:
        process = psutil.Process(host.pid)
        clients = [Patient(host.address, vectors, i) for i in range(count)]
        with RpycLink(host.address, 300.0) as link:  # what the first computation allocates belongs to no session
            link.step(link.open(TERMS), Step(1, 0, 1, LONG, vectors[:LONG].numpy().tobytes(), keep=1))
        empty, looks = process.memory_info().rss, list[tuple[int, int, int]]()

        def look() -> None:
            while not over.wait(LOOK):
                now = host.stats()
                each = max(use.size for use in now.sessions)
                looks.append((now.memory, process.memory_info().rss - empty, each))

        def work(client: Patient) -> None:
            try:
                client.send(LONG)
                client.tokens(tokens)
            except Exception as err:
                failed.append(type(err).__name__)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            together(clients, work)  # type: ignore[arg-type]
        finally:
            over.set()
            looking.join()
        counted, grown, each = map(max, zip(*looks, strict=True))
        return {"clients": count, "window_ms": window, "limit_mb": limit, "needed_mb": count * each / 1e6,
                "counted_mb": counted / 1e6, "grown_mb": grown / 1e6, "looks": len(looks),
                "evictions": host.stats().evictions, "replays": sum(c.replays for c in clients),
                "waits": sum(c.waits for c in clients), "errors": sorted(failed)}  # fmt: skip


def memories(vectors: torch.Tensor, quick: bool) -> dict[str, Any]:
    """Memory without and with batching, and how busy the machine was."""
    rows = [memory(vectors, 6 if quick else 30, 8, window) for window in (None, WINDOW_MS)]
    return {"load": common.machine()["load"], "rows": rows}


def memory_table(r: dict[str, Any]) -> str:
    """Memory as Markdown; nothing for a result of before it was measured."""
    if "memory" not in r:
        return ""
    rows = [
        [x["clients"], window_of(x["window_ms"]), f"{x['needed_mb']:.0f}", f"{x['limit_mb']:.0f}",
         f"{x['counted_mb']:.1f}", f"{x['grown_mb']:.0f}", x["evictions"], x["replays"], x["waits"], len(x["errors"])]
        for x in r["memory"]["rows"]
    ]  # fmt: skip
    head = ["clients", "batch window", "all sessions would take (MB)", "limit (MB)", "counted at most (MB)",
            "process grown at most (MB)", "sessions forgotten", "replays", "waits", "errors"]  # fmt: skip
    return (
        f"\n\nSessions that do not fit, {LONG} positions in pieces of {PIECE}, then single ones; what is counted, and "
        f"what the process takes beyond its weights was looked at every {LOOK:g} s (load {r['memory']['load']}):\n\n"
        + common.table(head, rows)
    )


def memory_goals(r: dict[str, Any]) -> list[list[str]]:
    """The rows of the table of goals that concern memory."""
    rows = r.get("memory", {}).get("rows", [])
    if not rows:
        return []
    counted, grown = (max(x[what] / x["limit_mb"] for x in rows) for what in ("counted_mb", "grown_mb"))
    fewest, errors = min(x["evictions"] for x in rows), max(len(x["errors"]) for x in rows)
    return [
        ["memory of sessions and steps under way, of its limit", "at most 1", *met(counted, 1, False)],
        ["the limit acts: sessions forgotten", "at least 1", *met(fewest, 1, True)],
        ["memory that the process grows by, of the limit", "at most 2", *met(grown, 2, False)],
        ["errors that a client sees", "none", *met(errors, 0, False)],
    ]


def window_of(ms: float | None) -> str:
    """A batch window as a table says it."""
    return "off" if ms is None else f"{ms:g} ms"


def met(value: float, goal: float, least: bool) -> tuple[str, str]:
    """What was measured, and whether it is at least, or at most, the goal."""
    return f"{value:.2f}", "yes" if (value >= goal if least else value <= goal) else "no"
