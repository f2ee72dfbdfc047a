"""One host and a class: tokens a second together and alone, fairness, memory, a long prompt beside next tokens.

The host has one core and one thread. Most clients are a load generator: a thread each that sends vectors which were
recorded once, over a connection of its own; two real clients show what is left of it end to end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from statistics import median
from typing import Any

import common
import psutil
import torch

import lsplit_kit as lk
from lsplit_kit.attacks import record
from lsplit_kit.data import prompts
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.wire.message import Open, Step

PLAN, PROMPT, WINDOW_MS, MEMORY_MB = (2, 2), 48, 5.0, 300.0
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
        at = (self.offset + self.start + torch.arange(count)) % len(self.vectors)
        payload = self.vectors[at].numpy().tobytes()
        self.number += 1
        step = Step(self.number, self.start, 1, count, payload, keep=1)
        self.link.step(self.session, step)
        self.start += count

    def tokens(self, count: int) -> None:
        """So many single positions."""
        for _ in range(count):
            self.seconds.append(common.seconds(lambda: self.send(1)))


def together(clients: list[Client], work: Callable[[Client], object]) -> float:
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


def rates(vectors: torch.Tensor, counts: tuple[int, ...], tokens: int, rounds: int) -> list[dict[str, Any]]:
    """Body tokens a second of so many clients at once, in turn, on one host that computes them together."""
    with start(batch_window_ms=WINDOW_MS, max_clients=64) as host:
        groups = {n: [Client(host.address, vectors, i) for i in range(n)] for n in counts}
        for clients in groups.values():
            together(clients, lambda c: c.send(PROMPT))
        runs = {
            str(n): (lambda clients=clients, n=n: n * tokens / together(clients, lambda c: c.tokens(tokens)))
            for n, clients in groups.items()
        }
        found = common.in_turn(runs, rounds)
    one = found[str(counts[0])]
    return [
        {"clients": n, "tokens_per_second": median(found[str(n)]),
         "ratio": median(a / b for a, b in zip(found[str(n)], one, strict=True))}
        for n in counts
    ]  # fmt: skip


def fairness(vectors: torch.Tensor, count: int, tokens: int, window: float | None) -> dict[str, Any]:
    """Many clients, each a prompt and its tokens: the slowest against the fastest, and the host's memory."""
    with start(batch_window_ms=window, max_clients=64, memory_mb=MEMORY_MB) as host:
        process = psutil.Process(host.pid)
        clients = [Client(host.address, vectors, i) for i in range(count)]
        clients[0].send(PROMPT)  # what the first computation allocates belongs to no session
        empty = process.memory_info().rss
        took: dict[int, float] = {}

        def work(client: Client) -> None:
            took[id(client)] = common.seconds(lambda: (client.send(PROMPT), client.tokens(tokens)))

        whole = together(clients, work)
        grown = process.memory_info().rss - empty
        return {"clients": count, "window_ms": window, "ratio": max(took.values()) / min(took.values()),
                "tokens_per_second": count * tokens / whole, "grown_mb": grown / 1e6, "limit_mb": MEMORY_MB,
                "worst_token_seconds": max(max(c.seconds) for c in clients)}  # fmt: skip


def long_prompt(vectors: torch.Tensor, piece: int, length: int, tokens: int) -> dict[str, Any]:
    """The longest wait for a token of one client while another's long prompt is computed, in its usual token's time."""
    with start(prefill_piece=piece) as host:
        one, other = (Client(host.address, vectors, i) for i in range(2))
        one.send(PROMPT)
        one.tokens(4)
        usual = median(one.seconds)
        one.seconds.clear()
        other.send(1)
        talker = threading.Thread(target=other.send, args=(length,))
        talker.start()
        while talker.is_alive() and len(one.seconds) < tokens:
            one.tokens(1)
        talker.join()
        return {"piece": piece, "prompt": length, "waits": max(one.seconds) / usual, "tokens": len(one.seconds)}


def real_clients(count: int, tokens: int) -> list[dict[str, Any]]:
    """End-to-end tokens a second of one and of two clients with head and tail of their own, in this process."""
    model, tok = lk.load("smollm2")
    texts = [p.text for p in prompts(count=count)]
    found = []
    for window in (None, WINDOW_MS):
        with start(batch_window_ms=window) as host:
            lms = [lk.split(model, head=PLAN[0], tail=PLAN[1], body=host.address) for _ in texts]
            jobs = [(lm, tok(text, return_tensors="pt")) for lm, text in zip(lms, texts, strict=True)]

            def reply(job: tuple[Any, Any]) -> None:
                job[0].generate(**job[1], max_new_tokens=tokens, do_sample=False, eos_token_id=[])

            reply(jobs[0])
            alone = tokens / common.seconds(lambda: reply(jobs[0]))  # noqa: B023
            both = count * tokens / together(jobs, reply)  # type: ignore[arg-type]
            found.append({"window_ms": window, "one": alone, "all": both, "clients": count})
    return found


def measure(quick: bool) -> dict[str, Any]:
    """All four."""
    vectors = recorded()
    counts, tokens, rounds = ((1, 8), 8, 2) if quick else ((1, 2, 4, 8, 16, 30), 24, 5)
    return {
        "rates": rates(vectors, counts, tokens, rounds),
        "fair": [fairness(vectors, 30 if not quick else 6, tokens, window) for window in (None, WINDOW_MS)],
        "long": [long_prompt(vectors, piece, 256 if quick else 1024, 200) for piece in (0, 256, 64)],
        "real": real_clients(2, 8 if quick else 32),
    }


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    rates = [[x["clients"], f"{x['tokens_per_second']:.1f}", f"{x['ratio']:.2f}"] for x in r["rates"]]
    fair = [
        [x["clients"], _window(x["window_ms"]), f"{x['ratio']:.2f}", f"{x['tokens_per_second']:.1f}",
         f"{x['worst_token_seconds']:.1f}", f"{x['grown_mb']:.0f} of {x['limit_mb']:.0f}"]
        for x in r["fair"]
    ]  # fmt: skip
    long = [[x["piece"] or "all", x["prompt"], f"{x['waits']:.1f}"] for x in r["long"]]
    real = [[_window(x["window_ms"]), f"{x['one']:.1f}", f"{x['all']:.1f}"] for x in r["real"]]
    goals = [
        [
            "body tokens a second, 8 clients against 1",
            "at least 3",
            *_met([x["ratio"] for x in r["rates"] if x["clients"] == 8][0], 3, True),
        ],
        ["slowest client against fastest", "at most 1.5", *_met(max(x["ratio"] for x in r["fair"]), 1.5, False)],
    ]
    return (
        f"`smollm2`, head {PLAN[0]}, tail {PLAN[1]}, host with one core and one thread, batch window {WINDOW_MS:g} ms; "
        f"load generator with recorded vectors, prompts of {PROMPT} positions, then one position a step, fp32.\n\n"
        + common.table(["clients at once", "body tokens a second", "against one client"], rates)
        + "\n\n"
        + common.table(
            [
                "clients",
                "batch window",
                "slowest / fastest",
                "tokens a second",
                "longest wait for a token (s)",
                "memory grown (MB, limit)",
            ],
            fair,
        )  # fmt: skip
        + "\n\nA long prompt of one client, and the next tokens of another, without batching:\n\n"
        + common.table(["piece", "prompt", "longest wait, in tokens"], long)
        + "\n\nEnd to end, heads and tails in one process on the other core, one and two clients:\n\n"
        + common.table(["batch window", "one: tokens a second", "two: tokens a second together"], real)
        + "\n\n"
        + common.table(["goal", "wanted", "measured", "met"], goals)
    )


def _window(ms: float | None) -> str:
    return "off" if ms is None else f"{ms:g} ms"


def _met(value: float, goal: float, least: bool) -> tuple[str, str]:
    return f"{value:.2f}", "yes" if (value >= goal if least else value <= goal) else "no"


def main() -> None:
    """Measure and report."""
    args = common.options(__doc__).parse_args()
    common.one_thread()
    result = measure(args.quick)
    common.finish("classroom", args, result, render(result))


if __name__ == "__main__":
    main()
