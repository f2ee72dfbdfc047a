"""One prompt local, at a cloud host and split (arXiv 2310.14651, experiment 1), over networks and host speeds.

Times are emulated: one machine, a virtual clock. Computing is measured, several runs in turn; what each run's steps
would take over another network and with a faster host is arithmetic, the same that the emulated link does.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable

import common

import lsplit_kit as lk
from lsplit_kit.wire.network import PRESETS, Network

NETWORKS = ("lan", "wifi", "5g", "4g", "dsl", "satellite")
SPEEDS = (1, 10)
ROUNDS, NEW, STEPS = 5, 24, 20
PROMPT = [{"role": "user", "content": "Explain in two sentences why the sky is blue."}]
PICTURE = "a red apple"
CHECKED = "4g"  # the network over which every deployment is also run on the clock itself
RATES, TRIPS = (1, 10, 100, 1000), (0.5, 5, 20, 50)  # Mbit/s both ways, milliseconds
SIDES = ((1, 10), (1, 100), (0.1, 1), (0.1, 10))  # local speed, host speed: where a split may pay
MODELS = ("smollm2", "emoji-ldm")


def run_of(deployed: object, outcome: object, opened: list) -> dict:
    """What a prediction needs of a run, as JSON."""
    return {
        "where": deployed.where,
        "seconds": outcome.seconds,
        "first": outcome.first,
        "count": max(1, len(outcome.ids)),
        "trips": [[t.local, t.host, t.frame_up, t.frame_down] for t in outcome.trips],
        "before": outcome.before,
        "after": list(outcome.after),
        "open": opened[:2],
        "ahead": deployed.where == "split" and deployed.model.remote.policy == "lockstep",  # steps sent together
    }


def replay(run: dict, network: Network, local_speed: float, host_speed: float, seed: int) -> list[float]:
    """When each token (or the picture) was there, in seconds, had this run's steps gone through that network."""
    if run["where"] == "local":
        return [run["first"] / local_speed, run["seconds"] / local_speed]
    (up, down), now = network.lines(seed), run["before"] / local_speed
    now = free = down.carry(up.carry(now, run["open"][0]), run["open"][1])
    answers: list[float] = []
    for local, host, frame_up, frame_down in run["trips"]:
        if run["where"] == "split" and answers and not run["ahead"]:  # the next vector is made of the last one's answer
            now = answers[-1]
        now += local / local_speed
        free = max(up.carry(now, frame_up), free) + host / host_speed
        answers.append(down.carry(free, frame_down))
    last = answers[-len(run["after"]) :]
    return [answer + after / local_speed for answer, after in zip(last, run["after"], strict=True)]


def cell(runs: list[dict], network: Network, local_speed: float, host_speed: float) -> dict[str, float]:
    """Medians over runs, each with a seed of its own: until all is there, until the first token, per later token."""
    found = {"seconds": [], "first": [], "each": []}
    for seed, run in enumerate(runs):
        stamps = replay(run, network, local_speed, host_speed, seed)
        found["seconds"].append(stamps[-1])
        found["first"].append(stamps[0])
        found["each"].append((stamps[-1] - stamps[0]) / max(1, run["count"] - 1))
    return {name: statistics.median(values) for name, values in found.items()}


def crossings(split: list[dict], local: list[dict], speeds: tuple[float, float]) -> dict:
    """Up to which round trip, at each rate, and from which rate on, at each round trip, the split is done before local.

    Rates are the same both ways, without jitter and loss; None where no round trip, or no rate, is enough.
    """
    local_speed, host_speed = speeds
    alone = statistics.median(run["seconds"] for run in local) / local_speed
    spare, trips, size = [], [], []
    for run in split:
        computing = run["before"] + sum(t[0] for t in run["trips"]) + run["after"][-1]
        spare.append(alone - computing / local_speed - sum(t[1] for t in run["trips"]) / host_speed)
        trips.append((1 if run["ahead"] else len(run["trips"])) + 1)
        size.append(sum(run["open"]) + sum(t[2] + t[3] for t in run["trips"]))
    left, count, bytes_ = (statistics.median(values) for values in (spare, trips, size))
    most = {rate: (left - bytes_ * 8e-6 / rate) / count * 1000 for rate in RATES}
    least = {trip: left - count * trip / 1000 for trip in TRIPS}
    return {
        "local_speed": local_speed,
        "host_speed": host_speed,
        "local_seconds": alone,
        "most_rtt_ms": {str(rate): value if value > 0 else None for rate, value in most.items()},
        "least_mbps": {str(trip): bytes_ * 8e-6 / value if value > 0 else None for trip, value in least.items()},
    }


def measure(name: str, rounds: int, options: dict, done: dict, keep: Callable[[dict], None]) -> dict[str, list[dict]]:
    """Every deployment's runs: `rounds` in turn without a network, and one on the clock over CHECKED.

    done: runs of an earlier, interrupted call by (model, kind, round); keep: called with each new one.
    """
    made = None
    for place, network in ((None, None), (CHECKED, CHECKED)):
        deployed = {}
        for number in range(rounds if place is None else 1):
            for where in ("local", "cloud", "split"):
                key = (name, f"{where} {place}", number)
                if key in done:
                    continue
                made = lk.load(name) if made is None else made
                if where not in deployed:
                    deployed[where] = start(made, where, network)
                keep({"key": key, "run": go(deployed[where], options)})
        for each in deployed.values():
            each.close()
    return {
        f"{where} {place}": [done[name, f"{where} {place}", n] for n in range(rounds if place is None else 1)]
        for where in ("local", "cloud", "split")
        for place in (None, CHECKED)
    }


def start(model: object, where: str, network: str | None) -> object:
    """A deployment that has answered once: what is done only the first time is not measured."""
    picture = not isinstance(model, tuple)
    deployed = lk.deploy(model, where, body="loopback", network=network, **({"mode": "lockstep"} if picture else {}))
    if picture:
        deployed.run(PICTURE, num_inference_steps=1)
    else:
        deployed.run(PROMPT, max_new_tokens=1)
    return deployed


def go(deployed: object, options: dict) -> dict:
    """One run, on lines that are free and whose random numbers begin anew."""
    opened: list[int] = []
    if deployed.link is not None:
        deployed.link.up, deployed.link.down = deployed.link.network.lines(0)
        deployed.link.on_control = lambda kind, up, down: opened.extend((up, down) if kind == "open" else ())
        if deployed.where == "split" and hasattr(deployed.model.remote, "drop_closed"):
            deployed.model.remote.drop_closed()
            deployed.link.up, deployed.link.down = deployed.link.network.lines(0)
    outcome = deployed.run(options["prompt"], **{k: v for k, v in options.items() if k != "prompt"})
    return run_of(deployed, outcome, opened)


def summary(runs: dict[str, list[dict]]) -> dict:
    """One model's table, crossing points, bytes, and how far the arithmetic is from the clock."""
    plain = {where: runs[f"{where} None"] for where in ("local", "cloud", "split")}
    off = []
    for where in ("cloud", "split"):
        (run,) = runs[f"{where} {CHECKED}"]
        off.append(abs(replay(run, PRESETS[CHECKED], 1, 1, 0)[-1] - run["seconds"]))
    return {
        "local": cell(plain["local"], Network(), 1, 1),
        "cells": [
            {"network": net, "host_speed": fast, "where": where, **cell(plain[where], PRESETS[net], 1, fast)}
            for net in NETWORKS for fast in SPEEDS for where in ("cloud", "split")
        ],
        "bytes": {
            where: [sum(t[2] for t in plain[where][0]["trips"]), sum(t[3] for t in plain[where][0]["trips"])]
            for where in ("cloud", "split")
        },
        "steps": {where: len(plain[where][0]["trips"]) for where in ("cloud", "split")},
        "crossings": [crossings(plain["split"], plain["local"], speeds) for speeds in SIDES],
        "clock_off_ms": max(off) * 1000,
    }  # fmt: skip


def render(r: dict) -> str:
    """The result as Markdown."""
    parts = [
        f"Emulated: one machine, a virtual clock, computing measured here (medians of {r['rounds']} runs in turn, one "
        "thread), networks by their presets (`lsplit_kit/wire/network.py`). Host speed 10: the host's computing "
        "divided by ten. Frames are counted in loopback; opening a session, one round trip, is in the times and not in "
        "the bytes."
    ]
    for name, m in r["models"].items():
        text = name == "smollm2"
        what = (
            f"### {name}: {r['new']} new tokens at most, greedy, head 2 / tail 2, fp32"
            if text
            else f"### {name}: one picture, {r['steps']} steps, the denoiser split off in lockstep, fp32"
        )
        local = f"All local: {m['local']['seconds']:.2f} s"
        local += (
            f", the first token after {m['local']['first']:.2f} s, each later one {m['local']['each'] * 1000:.0f} ms."
            if text
            else "."
        )
        sizes = "; ".join(f"{where}: {up:,} bytes up, {down:,} down" for where, (up, down) in m["bytes"].items())
        head = ["network", "host speed", "local s", "cloud s", "split s"]
        head += ["cloud first", "split first", "cloud ms a token", "split ms a token"] if text else []
        rows = []
        for net in NETWORKS:
            for fast in SPEEDS:
                pair = [
                    next(c for c in m["cells"] if (c["network"], c["host_speed"], c["where"]) == (net, fast, where))
                    for where in ("cloud", "split")
                ]
                row = [net, fast, f"{m['local']['seconds']:.2f}", *(f"{c['seconds']:.2f}" for c in pair)]
                if text:
                    row += [f"{c['first']:.2f}" for c in pair] + [f"{c['each'] * 1000:.0f}" for c in pair]
                rows.append(
                    [*row, min((m["local"]["seconds"], "local"), *((c["seconds"], c["where"]) for c in pair))[1]]
                )
        parts += [what, f"{local} Steps' frames: {sizes}.", common.table([*head, "first done"], rows)]
        parts += [crossing_text(m), clock_text(m)]
    return "\n\n".join(parts)


def short_table(r: dict) -> str:
    """Seconds of the three deployments with a host ten times as fast, by network."""
    fast, names = SPEEDS[-1], list(r["models"])
    rows = []
    for net in NETWORKS:
        row: list[object] = [net]
        for name in names:
            m = r["models"][name]
            at = {c["where"]: c for c in m["cells"] if (c["network"], c["host_speed"]) == (net, fast)}
            row += [f"{m['local']['seconds']:.2f}", *(f"{at[where]['seconds']:.2f}" for where in ("cloud", "split"))]
        rows.append(row)
    head = ["network", *(f"{name}, {where} s" for name in names for where in ("local", "cloud", "split"))]
    said = (
        f"Emulated: a host {fast} times as fast as the local side; `smollm2`: {r['new']} new tokens, head 2 / tail 2; "
        f"`emoji-ldm`: {r['steps']} steps, lockstep; fp32, medians of {r['rounds']} runs. "
        "`python benchmarks/deployments.py`."
    )
    return f"{common.table(head, rows)}\n\n{said}"


def crossing_text(m: dict) -> str:
    """Where the split is done before all local, as a table with its conditions."""
    rows = [
        [f"{c['local_speed']:g}", f"{c['host_speed']:g}", f"{c['local_seconds']:.2f}",
         *("never" if v is None else f"{v:.1f}" for v in c["most_rtt_ms"].values()),
         *("never" if v is None else f"{v:.2f}" for v in c["least_mbps"].values())]
        for c in m["crossings"]
    ]  # fmt: skip
    head = ["local speed", "host speed", "local s", *(f"ms at {rate} Mbit/s" for rate in RATES)]
    head += [f"Mbit/s at {trip:g} ms" for trip in TRIPS]
    return (
        "The split is done before all local up to a round trip of so many ms, or from so many Mbit/s on (the same rate "
        "both ways, no jitter, no loss; speeds as multiples of this machine's; never: at no round trip, or at no "
        "rate):\n\n" + common.table(head, rows)
    )


def clock_text(m: dict) -> str:
    """How far this arithmetic is from the clock of a run over a network."""
    said = f"the arithmetic is {m['clock_off_ms']:.1f} ms away at most."
    return f"One run each over {CHECKED} on the link's own clock: {said}"


def main() -> None:
    """Measure and report; an interrupted call goes on where it was."""
    args = common.options(__doc__).parse_args()
    common.one_thread()
    rounds, new, steps = (1, 4, 2) if args.quick else (ROUNDS, NEW, STEPS)
    wanted = {
        "smollm2": {"prompt": PROMPT, "max_new_tokens": new},
        "emoji-ldm": {"prompt": PICTURE, "num_inference_steps": steps, "seed": 3},
    }
    part = common.RESULTS / f"deployments{'-quick' if args.quick else ''}.part.jsonl"
    part.parent.mkdir(exist_ok=True)
    greeting = json.dumps({"rounds": rounds, "wanted": wanted, "versions": common.machine()["torch"]})
    lines = part.read_text("utf-8").splitlines() if part.exists() else []
    if not lines or lines[0] != greeting:
        part.write_text(greeting + "\n", "utf-8")
        lines = [greeting]
    done = {tuple(entry["key"]): entry["run"] for entry in map(json.loads, lines[1:])}

    def keep(entry: dict) -> None:
        done[entry["key"]] = entry["run"]
        with part.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    models = {name: summary(measure(name, rounds, wanted[name], done, keep)) for name in MODELS}
    result = {"rounds": rounds, "new": new, "steps": steps, "models": models}
    common.finish("deployments", args, result, render(result))
    part.unlink()


if __name__ == "__main__":
    main()
