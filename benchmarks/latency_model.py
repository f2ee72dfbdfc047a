"""Predicted against measured time: a latency model fitted to a few short runs, and longer ones on the virtual clock.

Both sides compute in this process, real frames, CPU time of the computing; the network is emulated. Calibration runs
and measured runs take turns; the measured time of a setting is the median of its rounds.
"""

from __future__ import annotations

from statistics import median
from typing import Any

import common
import torch

import lsplit_kit as lk
from lsplit_kit.measure.latency import calibration_runs, fit, timed_reply
from lsplit_kit.measure.stopwatch import Stopwatch
from lsplit_kit.wire.emulated import EmulatedLink
from lsplit_kit.wire.network import Network, network

NETWORKS = ("lan", "wifi", "4g", "dsl", "satellite")
TEXT = [(plan, codec) for plan in ((2, 2), (8, 8)) for codec in ("fp32", "int8:token")]
PICTURES = ["fp32", "int8"]
PROMPT, TOKENS, STEPS = 96, 24, 20  # of the measured runs; calibration: 8, 32, 160 tokens and 8 steps
STEADY = dict(jitter_ms=0.0, loss=0.0)  # one run is one draw of them; their means are in the model


def measured(model: Any, net: Network) -> tuple[float, float]:
    """(seconds to the first token or noise, in all) of one run over this network."""
    model.remote.link = EmulatedLink(model.remote.link.inner, net)
    if hasattr(model, "scheduler"):
        with Stopwatch(model) as watch:
            model("a red apple", num_inference_steps=STEPS, output_type="np")
    else:
        ids = torch.randint(5, 40_000, (1, PROMPT), generator=torch.Generator().manual_seed(0))
        watch = timed_reply(model, ids, TOKENS)
    table = watch.table()
    parts = table.drop(columns=["tokens", "past", "frame_up", "frame_down"]).sum(axis=1)
    return table.attrs["control"] + float(parts.iloc[0]), watch.seconds


def one(model: Any, name: str, networks: tuple[str, ...], rounds: int) -> list[dict[str, Any]]:
    """The rows of one plan and codec: every network, predicted and measured."""
    nets = {n: network(n, **STEADY) for n in networks}
    prompts = (8, 32, 160)
    calibration, runs = [], {n: [] for n in networks}
    for number in range(rounds + 1):
        model.remote.link = EmulatedLink(getattr(model.remote.link, "inner", model.remote.link), nets[networks[0]])
        tables = calibration_runs(model, prompts)
        found = {n: measured(model, net) for n, net in nets.items()}
        if number:  # the first round warms up
            calibration += tables
            for n, value in found.items():
                runs[n].append(value)
    known = fit(name, calibration, nets[networks[0]])
    rows = []
    for n, net in nets.items():
        times = known.split(*((1, STEPS) if hasattr(model, "scheduler") else (PROMPT, TOKENS)), net)
        first, total = (median(values) for values in zip(*runs[n], strict=True))
        rows.append(
            {"model": name, "network": n, "first": first, "first_predicted": times.first, "total": total,
             "total_predicted": times.total, "error": times.total / total - 1,
             "first_error": times.first / first - 1, "per_step": times.per_token}
        )  # fmt: skip
    return rows


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = ["model", "plan", "codec", "network", "first, measured (ms)", "predicted", "in all, measured (ms)",
            "predicted", "error"]  # fmt: skip
    rows = [
        [x["model"], x["plan"], f"`{x['codec']}`", x["network"],
         *(f"{1000 * x[k]:,.0f}" for k in ("first", "first_predicted", "total", "total_predicted")),
         f"{x['error']:+.1%}"]
        for x in r["rows"]
    ]  # fmt: skip
    said = (
        f"Emulated: one machine, virtual clock, measured CPU time, no jitter, no loss. Text: {r['prompt']} tokens of "
        f"prompt, {r['tokens']} new ones; pictures: {r['steps']} steps, a latent up each time; medians of "
        f"{r['rounds']} rounds. "
        f"Median error over {len(r['rows'])} settings: {r['median_error']:.1%} in all, "
        f"{r['median_first_error']:.1%} to the first token or noise."
    )
    return f"{said}\n\n{common.table(head, rows)}"


def main() -> None:
    """Measure, predict and report."""
    args = common.options(__doc__).parse_args()
    common.one_thread()
    rounds, networks = (1, NETWORKS[:2]) if args.quick else (3, NETWORKS)
    rows: list[dict[str, Any]] = []
    whole = lk.load("smollm2")[0]
    for (head, tail), codec in TEXT[: 1 if args.quick else None]:
        lm = lk.split(whole, head=head, tail=tail, codec=codec, body="loopback", network="lan")
        rows += [{**x, "plan": f"{head} / {tail}", "codec": codec} for x in one(lm, "smollm2", networks, rounds)]
    pipe = lk.load("emoji-ldm")
    pipe.set_progress_bar_config(disable=True)
    for codec in PICTURES[: 1 if args.quick else None]:
        split = lk.split(pipe, codec=codec, body="loopback", network="lan")
        rows += [{**x, "plan": "denoiser", "codec": codec} for x in one(split, "emoji-ldm", networks, rounds)]
    errors, firsts = ([abs(x[k]) for x in rows] for k in ("error", "first_error"))
    result = {"rounds": rounds, "prompt": PROMPT, "tokens": TOKENS, "steps": STEPS, "rows": rows,
              "median_error": median(errors), "median_first_error": median(firsts)}  # fmt: skip
    common.finish("latency_model", args, result, render(result))


if __name__ == "__main__":
    main()
