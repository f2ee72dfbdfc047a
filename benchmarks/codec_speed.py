"""What a codec costs in time: encoding and decoding a token [1, 576], and 65,536 values, on one core.

Codecs take turns; the ratio to `fp32` of the same rounds holds on a busy machine, microseconds are this machine's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import torch

import lsplit_kit as lk
from lsplit_kit.quantization import calibrations

QUICK = ("fp32", "fp16", "bf16", "fp8:e4m3", "int8", "int8:token", "int8:channel", "int4:token", "int4:group=64",
         "int8:token+hadamard=64", "int4:group=64+hadamard=64", "int4:token+outliers=16", "int4:group=64:affine",
         "uniform:snr=40", "int1", "int3:token")  # fmt: skip
EXEMPT = ("int4:clip=mse", "nf4:group=64", "uniform:snr=40+zstd", "uniform:snr=40+ans", "uniform:snr=20+ans", "klt")
SHAPES = {"token": (1, 1, 576), "values": (1, 128, 512)}
BARS = {"token": 150, "values": 1000}  # microseconds


def once(codec: Any, tensor: torch.Tensor, times: int) -> Callable[[], float]:
    """Microseconds of one encode and decode, the mean of a few in a row."""

    def run() -> float:
        start = time.perf_counter()
        for _ in range(times):
            codec.decode(codec.encode(tensor))
        return (time.perf_counter() - start) / times * 1e6

    return run


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = ["codec", "a token [1, 576] (us)", "x fp32", "65,536 values (us)", "x fp32", "below the bar"]
    rows = [
        [f"`{x['codec']}`", *(x.get(k, "") for k in ("token", "token_ratio", "values", "values_ratio")), x["below"]]
        for x in r["rows"]
    ]
    said = f"Medians of {r['rounds']} rounds. The bar: {BARS['token']} us for a token, {BARS['values']:,} us for values"
    return f"{said}; entropy coders, `clip=mse`, `nf4` and `klt` have none.\n\n{common.table(head, rows)}"


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    args = parser.parse_args()
    common.one_thread()
    rounds = 3 if args.quick else 41
    known = next(c for c in calibrations() if c.facts.get("depth") == 2)
    specs = {spec: spec if spec != "klt" else f"klt:cal={known.id}:step=0.21+ans" for spec in (*QUICK, *EXEMPT)}
    rows: dict[str, dict[str, Any]] = {spec: {"codec": spec} for spec in specs}
    for what, shape in SHAPES.items():
        torch.manual_seed(0)
        tensor = torch.randn(shape)
        fits = {s: lk.codec(named) for s, named in specs.items() if s != "klt" or shape[-1] == known.width}
        runs = {s: once(codec, tensor, 20 if what == "token" else 3) for s, codec in fits.items()}
        took = {s: float(np.median(t)) for s, t in common.in_turn(runs, rounds).items()}
        for spec, value in took.items():
            rows[spec] |= {what: round(value), f"{what}_ratio": round(value / took["fp32"], 1)}
    for spec, row in rows.items():
        below = all(row[what] < bar for what, bar in BARS.items() if what in row)
        row["below"] = "-" if spec in EXEMPT else "yes" if below else "no"
    result = {"rounds": rounds, "rows": list(rows.values())}
    common.finish("codec_speed", args, result, render(result))


if __name__ == "__main__":
    main()
