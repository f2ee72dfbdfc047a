"""How often a picture waits for its host, how many calls skip= saves, and what that does to the picture.

Round trips: one picture in each mode, counted by a tap, and the time that a network would add on a virtual clock.
Skipped calls: emoji-ldm in lockstep against the unsplit model's pictures. A run that was stopped goes on with what it
lacks.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import common
import numpy as np
from rate_distortion import GUIDANCE, PROMPTS, mixed, picture
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.measure import picture_quality
from lsplit_kit.models.toy_pipes import toy_pipe_call

TOYS, TOY_STEPS, NETWORK = ("toy-sd", "toy-sdxl", "toy-sd3", "toy-pixart", "toy-flux"), 20, "4g"
SKIPS = (0.0, 0.2, 0.4, "auto")
WAYS = tuple((codec, skip) for codec in ("fp32", "auto:image") for skip in SKIPS)
GOAL_SAVED, GOAL_PSNR, GOAL_TRIPS = 0.4, 45.0, 2


def trips(pipe: Any, mode: str, call: dict[str, Any], body: str) -> dict[str, Any]:
    """Round trips of one picture: all, and those of its denoiser's calls; seconds that a network adds."""
    with lk.split(pipe, mode=mode, body=body) as split, lk.tap(split) as wire:
        split(**call)
        rows, link = wire.ledger(), {"all": wire.round_trips()}
    link["calls"] = link["all"] - sum(set(rows.kind).issuperset({kind}) for kind in ("open", "close"))
    with lk.split(pipe, mode=mode, body="loopback", network=NETWORK) as split:
        split(**call)
        return {**link, "made": int(rows[rows.kind == "step"].step.max()), "seconds": round(split.link.now, 3)}


def every_trip(model: str, steps: int) -> list[dict[str, Any]]:
    """A row for each pipeline and mode; the shipped model's body is in a process of its own."""
    found = []
    with lk.host(model) as host:
        for name, body in ((model, host.address), *((toy, "loopback") for toy in TOYS)):
            pipe = lk.load(name)
            pipe.set_progress_bar_config(disable=True)
            call = dict(prompt="a red apple", num_inference_steps=steps, output_type="latent")
            call |= toy_pipe_call(name) if name in TOYS else {"guidance_scale": GUIDANCE}
            for mode in ("per_step", "lockstep"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    row = trips(pipe, mode, call, body)
                found.append({"model": name, "pipeline": type(pipe).__name__, "mode": mode, **row})
    return found


def drawn(pipe: Any, prompts: list[str], whole: list[np.ndarray], steps: int, codec: str, skip: Any) -> dict[str, Any]:
    """What the pictures of one way cost, and how far they are from unsplit ones: medians over the prompts."""
    split = lk.split(pipe, mode="lockstep", body="loopback", codec=codec, skip=skip)
    rows: list[dict[str, float]] = []
    for seed, prompt in enumerate(tqdm(prompts, desc=f"{steps} steps, {codec}, skip {skip}")):
        with lk.tap(split) as wire:
            made = picture(split, prompt, seed, steps)
        ledger = wire.ledger()
        quality = picture_quality({"split": made}, whole[seed]).loc["split"]
        skipped = len(set(ledger[ledger.kind == "skipped"].step))
        rows.append({
            "calls": steps - skipped, "trips": wire.round_trips(), "psnr": float(quality["psnr"]),
            "ssim": float(quality["ssim"]), "bytes": int(ledger.frame.sum()),
            "down": int(ledger[ledger.direction == "down"].payload.sum()),
        })  # fmt: skip
    middle = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    worst = min(row["psnr"] for row in rows)
    return {
        "steps": steps, "codec": codec, "skip": skip, **middle, "saved": round(1 - middle["calls"] / steps, 4),
        "psnr": round(middle["psnr"], 1) if np.isfinite(middle["psnr"]) else None,
        "worst_psnr": round(worst, 1) if np.isfinite(worst) else None, "ssim": round(middle["ssim"], 4),
    }  # fmt: skip


def every_way(pipe: Any, prompts: list[str], steps: int, part: Path) -> list[dict[str, Any]]:
    """A row for every way; each is written to `part` when it is there, and found there when a run goes on."""
    known = [json.loads(line) for line in part.read_text("utf-8").splitlines()] if part.exists() else []
    done = {(r["row"]["codec"], r["row"]["skip"]): r["row"] for r in known if (r["prompts"], r["row"]["steps"]) == (len(prompts), steps)}  # fmt: skip  # noqa: E501
    whole: list[np.ndarray] = []
    for way in WAYS:
        if way in done:
            continue
        whole = whole or [picture(pipe, prompt, seed, steps) for seed, prompt in enumerate(prompts)]
        done[way] = drawn(pipe, prompts, whole, steps, *way)
        with part.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"prompts": len(prompts), "row": done[way]}) + "\n")
    return [done[way] for way in WAYS]


def summary(trip_rows: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The three figures, and whether they meet their goals at every number of steps."""
    best = [row for row in rows if row["codec"] == "fp32" and row["skip"] == 0.4]
    saved, psnr = min(row["saved"] for row in best), min(row["psnr"] or np.inf for row in best)
    most = max(row["calls"] for row in trip_rows if row["mode"] == "lockstep")
    return {
        "picture_round_trips": most, "picture_calls_saved": saved, "picture_psnr": psnr if np.isfinite(psnr) else None,
        "targets": {
            f"lockstep: at most {GOAL_TRIPS} round trips for a run's calls": most <= GOAL_TRIPS,
            f"skip=0.4: at least {GOAL_SAVED:.0%} of the calls saved": saved >= GOAL_SAVED,
            f"skip=0.4: at least {GOAL_PSNR:.0f} dB": psnr >= GOAL_PSNR,
        },
    }  # fmt: skip


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    trip_table = common.table(
        ["model", "pipeline", "mode", "round trips", "of them for calls", f"seconds on {r['network']}"],
        [[f"`{t['model']}`", t["pipeline"], t["mode"], t["all"], t["calls"], t["seconds"]] for t in r["trips"]],
    )
    skip_table = common.table(
        ["steps", "codec", "skip", "calls", "saved", "PSNR (dB)", "worst PSNR", "SSIM", "noise down", "all frames"],
        [
            [x["steps"], f"`{x['codec']}`", x["skip"] or "none", f"{x['calls']:g}", f"{x['saved']:.0%}",
             x["psnr"] or "equal", x["worst_psnr"] or "equal", x["ssim"], f"{x['down']:.0f}", f"{x['bytes']:.0f}"]
            for x in r["pictures"]
        ],
    )  # fmt: skip
    met = common.table(["target", "met in this run"], [[k, "yes" if v else "no"] for k, v in r["targets"].items()])
    one = (
        f"One picture of {r['trip_steps']} steps. *Round trips* counts every wait for the host, opening and closing "
        f"the session too; `{r['model']}` is in a host process. *Seconds* is what the network adds, on a virtual clock "
        "without computing."
    )
    many = (
        f"`{r['model']}`, lockstep, {r['prompts']} prompts, guidance {GUIDANCE:g}; medians, against the unsplit "
        "model's pictures. *Calls* are those that the host computes, the others are guessed on both sides; bytes are "
        "those of a picture."
    )
    return "\n\n".join([one, trip_table, many, skip_table, met])


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--model", default="emoji-ldm")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50], help="of the pictures with skipped calls")
    parser.add_argument("--prompts", type=int, default=12, help="how many of the list")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of a run that was stopped")
    args = parser.parse_args()
    common.one_thread()
    every = [prompt for prompt, _ in json.loads(PROMPTS.read_text("utf-8"))["measured"]]
    prompts = mixed(every, args.quick)[:: 1 if args.quick else 4][: args.prompts]
    pipe = lk.load(args.model)
    pipe.set_progress_bar_config(disable=True)
    part = common.RESULTS / f"round_trips_pictures{'-quick' if args.quick else ''}.part.jsonl"
    if args.fresh or args.quick:
        part.unlink(missing_ok=True)
    trip_steps = 6 if args.quick else TOY_STEPS
    rows = [row for steps in ([8] if args.quick else args.steps) for row in every_way(pipe, prompts, steps, part)]
    trip_rows = every_trip(args.model, trip_steps)
    result = {
        "model": args.model, "prompts": len(prompts), "trip_steps": trip_steps, "network": NETWORK,
        **summary(trip_rows, rows), "trips": trip_rows, "pictures": rows,
    }  # fmt: skip
    common.finish("round_trips_pictures", args, result, render(result))
    part.unlink()


if __name__ == "__main__":
    main()
