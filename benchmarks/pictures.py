"""Split pipelines: which families are bit-equal, what crosses in each mode, and what the split costs in time."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import common
import numpy as np
import torch

import lsplit_kit as lk
from lsplit_kit.errors import LsplitError
from lsplit_kit.measure import picture_quality
from lsplit_kit.models.toy_pipes import toy_pipe_call, toy_pipe_names

PROMPT, TARGETS = "a red apple", {"in process": 0.97, "rpyc": 0.90}
INSIDE = ((0, 0), (1, 1), (2, 2), (3, 3), (1, 2))
FP32, LOCKSTEP = ("fp32", "fp32"), dict(mode="lockstep")
WAYS = (
    ("denoiser", dict(), FP32),
    ("denoiser, guided at the host", dict(guidance="host"), FP32),
    ("denoiser", dict(), ("fp32", "int8")),
    ("denoiser", LOCKSTEP, FP32),
    ("denoiser", LOCKSTEP, ("fp32", "fp16")),
    ("denoiser", LOCKSTEP, ("fp32", "int8")),
    ("denoiser", LOCKSTEP, ("fp32", "int4")),
    ("denoiser", LOCKSTEP, ("auto:image", "auto:image")),
    ("inside, 0 + 0 local", dict(at="blocks", head=0, tail=0), FP32),
    ("inside, 1 + 1 local", dict(at="blocks", head=1, tail=1), FP32),
    ("inside, 2 + 2 local", dict(at="blocks", head=2, tail=2), FP32),
)


def picture(pipe: Any, steps: int, **options: Any) -> np.ndarray:
    """The picture of one seed as an array [H, W, 3]."""
    made = pipe(
        PROMPT, num_inference_steps=steps, generator=torch.Generator().manual_seed(1), output_type="np", **options
    )
    return made.images[0]


def verdict(pipe: Any, reference: np.ndarray, options: dict, **how: Any) -> str:
    """ "bit-equal", "differs", or "refused" where the kit says why it cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            split = lk.split(pipe, body="loopback", **how)
            return "bit-equal" if np.array_equal(picture(split, 3, **options), reference) else "differs"
    except LsplitError:
        return "refused"


def family(name: str) -> dict[str, Any]:
    """One toy pipeline: bit-equal or not, at the denoiser in both modes and inside at several cuts."""
    pipe, options = lk.load(name), toy_pipe_call(name)
    reference = picture(pipe, 3, **options)
    inside = [verdict(pipe, reference, options, at="blocks", head=h, tail=t) for h, t in INSIDE]
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    return {
        "toy": name,
        "pipeline": type(pipe).__name__,
        "denoiser": type(denoiser).__name__,
        "scheduler": type(pipe.scheduler).__name__,
        "per_step": verdict(pipe, reference, options),
        "lockstep": verdict(pipe, reference, options, mode="lockstep"),
        "inside": {kind: inside.count(kind) for kind in ("bit-equal", "differs", "refused")},
    }


def traffic(pipe: Any, steps: int) -> list[dict[str, Any]]:
    """Payload bytes of one run in each way, against the paper's protocol: uploads once, FP32 noise at every step."""
    reference, rows = picture(pipe, steps), []
    config = pipe.unet.config
    latent = 4 * config.in_channels * config.sample_size**2  # bytes of one latent, FP32
    for cut, how, codec in WAYS:
        split = lk.split(pipe, codec=codec, body="loopback", **how)
        with lk.tap(split) as wire:
            made = picture(split, steps)
        ledger = wire.ledger().query("step > 0")
        up, down = (ledger[ledger["direction"] == way] for way in ("up", "down"))
        later = up.loc[up["step"] > 1, "payload"].sum() / max(steps - 1, 1)
        quality = picture_quality({"split": made}, reference).loc["split"]
        rows.append({
            "cut": cut, "mode": how.get("mode", "per_step"), "noise": codec[1],
            "first_up": int(up.loc[up["step"] == 1, "payload"].sum()), "step_up": float(later),
            "down": int(down["payload"].sum()), "latents": round((later + down["payload"].sum() / steps) / latent, 2),
            "frames": int(wire.totals()["frame"].sum()),
            "psnr": round(float(quality["psnr"]), 1) if np.isfinite(quality["psnr"]) else None,  # None: bit-equal
            "ssim": round(float(quality["ssim"]), 4),
        })  # fmt: skip
    paper = next(row for row in rows if row["mode"] == "lockstep" and row["noise"] == "fp32")
    return [
        row | {"against_paper": round(row["frames"] / paper["frames"] - 1, 4),
               "down_against_fp32": round(row["down"] / paper["down"] - 1, 4)} for row in rows
    ]  # fmt: skip


def speed(name: str, steps: int, rounds: int) -> dict[str, Any]:
    """Seconds of one picture, four ways in turn."""
    pipe = lk.load(name)
    pipe.set_progress_bar_config(disable=True)

    def runner(any_pipe: Any) -> Callable[[], float]:
        return lambda: common.seconds(lambda: picture(any_pipe, steps))

    with ExitStack() as stack:
        host = stack.enter_context(lk.host(name))
        ways = {"unsplit": pipe}
        for label, body in (("in process", None), ("loopback", "loopback"), ("rpyc", host.address)):
            ways[label] = lk.split(pipe, body=body, mode="lockstep", codec=("fp32", "int8"))
            stack.callback(ways[label].close)
        for way in ways.values():
            picture(way, 2)
        took = common.in_turn({label: runner(way) for label, way in ways.items()}, rounds)
    return {
        label: {
            "seconds": round(statistics.median(values), 3),
            "ratio": round(statistics.median(u / v for u, v in zip(took["unsplit"], values, strict=True)), 3),
        }
        for label, values in took.items()
    }


def conditions(r: dict[str, Any]) -> str:
    """What one picture's bytes were counted on."""
    return f"`{r['model']}`, one guided picture of {r['size']} x {r['size']} pixels, {r['steps']} DDIM steps, lockstep."


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    families = common.table(
        ["pipeline", "denoiser", "scheduler", "per step", "lockstep", "inside: bit-equal / differs / refused"],
        [
            [f["pipeline"], f["denoiser"], f["scheduler"], f["per_step"], f["lockstep"],
             " / ".join(str(f["inside"][k]) for k in ("bit-equal", "differs", "refused"))]
            for f in r["families"]
        ],
    )  # fmt: skip
    bytes_ = common.table(
        ["cut", "mode", "down as", "first step up", "later step up", "step down", "a later step in latents",
         "all frames", "against FP32", "PSNR (dB)", "SSIM"],
        [
            [t["cut"], t["mode"], t["noise"], t["first_up"], f"{t['step_up']:.0f}", f"{t['down'] / r['steps']:.0f}",
             t["latents"], t["frames"], f"{t['against_paper']:+.1%}", t["psnr"] or "bit-equal", t["ssim"]]
            for t in r["traffic"]
        ],
    )  # fmt: skip
    speeds = common.table(
        ["way", "seconds a picture", "speed against unsplit"],
        [[label, v["seconds"], v["ratio"]] for label, v in r["speed"].items()],
    )
    met = common.table(["target", "met in this run"], [[k, "yes" if v else "no"] for k, v in r["targets"].items()])
    toys = (
        "Tiny random pipelines, three steps, lossless codecs, through real frames in one process. A row is *refused* "
        "where the kit says in a sentence why it cannot: a scheduler that draws random numbers, blocks whose streams "
        "it does not know, a U-Net without so many blocks."
    )
    one = (
        f"`{r['model']}`, one guided picture of {r['size']} x {r['size']} pixels, {r['steps']} DDIM steps, bytes. "
        "*A later step in latents* is what crosses both ways, in FP32 latents. *Against FP32* compares all frames with "
        "lockstep at FP32, the protocol of arXiv 2310.14651 (embeddings and latent up once, noise down at every step)."
    )
    timed = (
        f"`{r['model']}`, {r['steps']} steps, lockstep, INT8 noise, one thread a process; medians of {r['rounds']} "
        "rounds in turn, a ratio being the median of the rounds' own."
    )
    return "\n\n".join([toys, families, one, bytes_, timed, speeds, met])


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--model", default="emoji-ldm")
    args = parser.parse_args()
    common.one_thread()
    steps, rounds = (4, 1) if args.quick else (20, 21)
    names = toy_pipe_names()[:3] if args.quick else toy_pipe_names()
    pipe = lk.load(args.model)
    pipe.set_progress_bar_config(disable=True)
    speeds = speed(args.model, steps, rounds)
    result = {
        "model": args.model, "steps": steps, "rounds": rounds, "size": picture(pipe, 1).shape[0],
        "families": [family(name) for name in names], "traffic": traffic(pipe, steps), "speed": speeds,
        "targets": {f"{k} >= {v} of unsplit": speeds[k]["ratio"] >= v for k, v in TARGETS.items()},
    }  # fmt: skip
    common.finish("pictures", args, result, render(result))


if __name__ == "__main__":
    main()
