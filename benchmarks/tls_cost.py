"""What TLS costs: one call's round trip and one connection, over TLS with certificates and without, in turn."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import common
from overhead import child

from lsplit_kit.remote.certificates import make_class
from lsplit_kit.remote.client import RpycLink

KIB = (2, 64)
BLOCK = 20  # calls of one kind at a time: a switch costs both the same


def compared(plain: Callable[[], object], tls: Callable[[], object], times: int) -> dict[str, float]:
    """The fastest and the median of each in microseconds, and their ratios."""
    took: dict[str, list[float]] = {"plain": [], "tls": []}
    for _ in range(max(1, times // BLOCK)):
        for name, call in (("plain", plain), ("tls", tls)):
            took[name] += [1e6 * common.seconds(call) for _ in range(min(BLOCK, times))]
    found: dict[str, float] = {}
    for of, pick in (("fastest", min), ("median", statistics.median)):
        each = {name: pick(values) for name, values in took.items()}
        found |= {f"{name}_{of}": round(value, 1) for name, value in each.items()}
        found[f"ratio_{of}"] = round(each["tls"] / each["plain"], 2)
    return found


def measure(calls: int, connections: int) -> tuple[list[dict], dict]:
    """A row for each size, and one for making a connection; both children on one core, this side on another."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    mine, theirs = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    if mine is not None:
        os.sched_setaffinity(0, {mine})
    try:
        with ExitStack() as stack:
            made = make_class(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "class", ["ann"])
            kit = stack.enter_context(child("rpyc", theirs))
            tls = stack.enter_context(child(str(made.folder / "host"), theirs))
            bundle = made.folder / "students" / "ann.pem"

            def connect(over_tls: bool) -> RpycLink:
                if over_tls:
                    return RpycLink(f"rpycs://127.0.0.1:{tls}", certificate=bundle)
                return RpycLink(f"rpyc://127.0.0.1:{kit}")

            links = {over: stack.enter_context(closing(connect(over))) for over in (False, True)}
            rows = []
            for kib in KIB:
                payload = os.urandom(kib * 1024)

                def call(link: RpycLink, payload: bytes = payload) -> None:
                    assert len(link._call("echo", (payload,), (bytes,))[0]) == len(payload)

                both = compared(lambda: call(links[False]), lambda: call(links[True]), calls)  # noqa: B023
                rows.append({"kib": kib, **both})

            def greet(over_tls: bool) -> None:
                connect(over_tls).close()
                time.sleep(0.002)  # the host's place is free again

            return rows, compared(lambda: greet(False), lambda: greet(True), connections)
    finally:
        if mine is not None:
            os.sched_setaffinity(0, set(cores))


COLUMNS = {
    f"{name}_{of}": f"{words}{', median' if of == 'median' else ''}"
    for of in ("fastest", "median")
    for name, words in (("plain", "plain"), ("tls", "TLS 1.3"), ("ratio", "ratio"))
}


def render(r: dict) -> str:
    """The result as Markdown."""
    parts = [
        "One call with as many bytes up as down, client and hosts pinned to a core each, in turn; fastest and median "
        f"of {r['calls']} calls each, microseconds. TLS cuts what is longer than 16 KiB into records, and a busy "
        "machine may take the processor away between any two: the median says more of the load.",
        common.table(["KiB", *COLUMNS.values()], [[c["kib"], *(c[k] for k in COLUMNS)] for c in r["rows"]]),
        "One connection, from dialling to the answer to `hello`, its end and two milliseconds of pause included: the "
        "token's handshake against that with certificates on both sides; fastest and median of "
        f"{r['connections']}, microseconds.",
        common.table(COLUMNS.values(), [[r["connect"][k] for k in COLUMNS]]),
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Measure and report."""
    args = common.options(__doc__).parse_args()
    calls, connections = (100, 20) if args.quick else (4000, 200)
    rows, connect = measure(calls, connections)
    result = {"calls": calls, "connections": connections, "rows": rows, "connect": connect}
    common.finish("tls_cost", args, result, render(result))


if __name__ == "__main__":
    main()
