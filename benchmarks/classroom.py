"""One host and a class: tokens a second together and alone, fairness, memory, a long prompt beside next tokens.

The host has one core and one thread. Most clients are a load generator: a thread each that sends vectors which were
recorded once, over a connection of its own; two real clients show what is left of it end to end.
"""

from __future__ import annotations

import json
import threading
from statistics import median
from typing import Any

import common
import torch
from crowd import (
    PLAN,
    PROMPT,
    WINDOW_MS,
    Client,
    memories,
    memory_goals,
    memory_table,
    met,
    recorded,
    start,
    together,
    window_of,
)  # fmt: skip

import lsplit_kit as lk
from lsplit_kit.data import prompts


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
    """Many clients, each a prompt and its tokens: the slowest against the fastest."""
    with start(batch_window_ms=window, max_clients=64) as host:
        clients = [Client(host.address, vectors, i) for i in range(count)]
        clients[0].send(PROMPT)  # what the first computation allocates belongs to no session
        took: dict[int, float] = {}

        def work(client: Client) -> None:
            took[id(client)] = common.seconds(lambda: (client.send(PROMPT), client.tokens(tokens)))

        whole = together(clients, work)
        return {"clients": count, "window_ms": window, "ratio": max(took.values()) / min(took.values()),
                "tokens_per_second": count * tokens / whole,
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
    """All five."""
    vectors = recorded()
    counts, tokens, rounds = ((1, 8), 8, 2) if quick else ((1, 2, 4, 8, 16, 30), 24, 5)
    return {
        "memory": memories(vectors, quick),
        "rates": rates(vectors, counts, tokens, rounds),
        "fair": [fairness(vectors, 30 if not quick else 6, tokens, window) for window in (None, WINDOW_MS)],
        "long": [long_prompt(vectors, piece, 256 if quick else 1024, 200) for piece in (0, 256, 64)],
        "real": real_clients(2, 8 if quick else 32),
    }


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    rates = [[x["clients"], f"{x['tokens_per_second']:.1f}", f"{x['ratio']:.2f}"] for x in r["rates"]]
    fair = [
        [x["clients"], window_of(x["window_ms"]), f"{x['ratio']:.2f}", f"{x['tokens_per_second']:.1f}",
         f"{x['worst_token_seconds']:.1f}"]
        for x in r["fair"]
    ]  # fmt: skip
    long = [[x["piece"] or "all", x["prompt"], f"{x['waits']:.1f}"] for x in r["long"]]
    real = [[window_of(x["window_ms"]), f"{x['one']:.1f}", f"{x['all']:.1f}"] for x in r["real"]]
    goals = [
        [
            "body tokens a second, 8 clients against 1",
            "at least 3",
            *met([x["ratio"] for x in r["rates"] if x["clients"] == 8][0], 3, True),
        ],
        ["slowest client against fastest", "at most 1.5", *met(max(x["ratio"] for x in r["fair"]), 1.5, False)],
        *memory_goals(r),
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
            ],
            fair,
        )  # fmt: skip
        + memory_table(r)
        + "\n\nA long prompt of one client, and the next tokens of another, without batching:\n\n"
        + common.table(["piece", "prompt", "longest wait, in tokens"], long)
        + "\n\nEnd to end, heads and tails in one process on the other core, one and two clients:\n\n"
        + common.table(["batch window", "one: tokens a second", "two: tokens a second together"], real)
        + "\n\n"
        + common.table(["goal", "wanted", "measured", "met"], goals)
    )


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--memory", action="store_true", help="measure memory only, and put it into the last result")
    args = parser.parse_args()
    common.one_thread()
    if args.memory:
        path = common.RESULTS / f"classroom{'-quick' if args.quick else ''}.json"
        last = json.loads(path.read_text("utf-8")) if path.exists() else {}
        found = memories(recorded(), args.quick)
        path.write_text(json.dumps({**last, "memory": found}, indent=1) + "\n", "utf-8")
        print(json.dumps(found))
        return
    result = measure(args.quick)
    common.finish("classroom", args, result, render(result))


if __name__ == "__main__":
    main()
