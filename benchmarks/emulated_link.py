"""How exactly a link with `realtime=True` waits: the time of a step over it against the formula, by frame size.

A step answers as many bytes as it brings, from memory. Expected: round trip + bytes / rates, and what the link inside
takes by itself, measured in the same rounds.
"""

from __future__ import annotations

import time
from statistics import median, quantiles
from typing import Any

import common

from lsplit_kit.wire.emulated import EmulatedLink
from lsplit_kit.wire.here import Loopback
from lsplit_kit.wire.message import HostInfo, Open, Step

SIZES = (1024, 16_384, 65_536)
SETTINGS = {"4g": {"preset": "4g", "jitter_ms": 0}, "100 Mbit/s, 5 ms": {"up_mbps": 100, "down_mbps": 100, "rtt_ms": 5},
            "round trip 50 ms": {"rtt_ms": 50}}  # fmt: skip


class Echo:
    """A body that answers with what came."""

    message = Step
    info = HostInfo("1.0", "", "", "", "echo", "", 0, 1, 1, "float32", (), 16 << 20, 1 << 20, 1 << 20, 0, (0, 1))

    def open(self, terms: Open) -> int:
        """Any terms."""
        return 1

    def step(self, session: int, step: Step) -> bytes:
        """The payload again."""
        return step.payload


def took(link: Any, session: int, step: Step) -> tuple[float, Any]:
    """Seconds of one step, and its exchange."""
    begin = time.perf_counter()
    done = link.step(session, step)
    return time.perf_counter() - begin, done


def measure(options: dict[str, Any], size: int, rounds: int) -> dict[str, float]:
    """Errors in milliseconds, the link inside's own time taken off."""
    plain = Loopback(Echo())  # type: ignore[arg-type]
    link = EmulatedLink(Loopback(Echo()), realtime=True, **options)  # type: ignore[arg-type]
    net, errors = link.network, []
    for number in range(rounds):
        step = Step(number + 1, 0, 1, 1, bytes(size))
        alone, done = took(plain, 1, step)
        seconds, _ = took(link, 1, step)
        wire = sum(
            bytes_ * 8e-6 / rate
            for bytes_, rate in ((done.frame_up, net.up_mbps), (done.frame_down, net.down_mbps)) if rate
        )  # fmt: skip
        errors.append((seconds - alone - wire - net.rtt_ms / 1000) * 1000)
    return {"median": median(errors), "p95": quantiles(errors, n=20)[-1], "worst": max(map(abs, errors))}


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = [[x["network"], f"{x['size']:,}", *(f"{x[k]:.2f}" for k in ("median", "p95", "worst"))] for x in r["rows"]]
    head = ["network", "payload each way", "median error (ms)", "95th percentile", "worst"]
    return f"{r['rounds']} steps each.\n\n{common.table(head, rows)}"


def main() -> None:
    """Measure and report."""
    args = common.options(__doc__).parse_args()
    rounds = 10 if args.quick else 100
    rows = [
        {"network": name, "size": size, **measure(options, size, rounds)}
        for name, options in SETTINGS.items() for size in SIZES
    ]  # fmt: skip
    result = {"rounds": rounds, "rows": rows}
    common.finish("emulated_link", args, result, render(result))


if __name__ == "__main__":
    main()
