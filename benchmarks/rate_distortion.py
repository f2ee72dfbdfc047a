"""How many bits a value of predicted noise needs: codecs against Shannon's bound, and what they do to the picture.

Noise: the guided noise of real runs of emoji-ldm, and Gaussian values. Pictures: the same prompts and seeds, every way
they can be split, and every byte that crosses for one. A run that was stopped goes on with the rows that it lacks.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import shipped_curves
import torch
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.measure import picture_quality
from lsplit_kit.quantization.auto import AUTO, About
from lsplit_kit.wire.message import MODES

PROMPTS = Path(__file__).parent / "emoji_prompts.json"
GUIDANCE = 3.0
NOISE = (
    "fp16", "bf16", "fp8:e4m3", "fp8:e5m2", "int8", "int8:clip=mse", "int6", "int4", "int4:clip=mse", "int4:group=64",
    "nf4:group=64", "int3", "int2", "uniform:snr=40+zstd", "uniform:snr=40+ans", "uniform:snr=30+ans",
    "uniform:snr=20+zstd", "uniform:snr=20+ans", "uniform:snr=12+ans", "uniform:snr=4+ans",
)  # fmt: skip


class Way(NamedTuple):
    """How a row's pictures are split."""

    mode: str
    guidance: str
    up: str
    down: str


STEPS_OF_UNIFORM = (0.1, 0.2, 0.3, 0.5, 0.8, 1.2)
BESIDE = ("int8", "int6", "int4")  # guided before and after they come down
FP32, UP = Way("lockstep", "host", "fp32", "fp32"), "uniform:snr=34+near+ans"
WAYS = (
    FP32,
    *(FP32._replace(down=spec) for spec in ("fp16", *BESIDE, "int4:clip=mse", "int2", "uniform:step=0.1+ans")),
    *(FP32._replace(down=f"uniform:step={step}+delta+ans") for step in STEPS_OF_UNIFORM),
    *(FP32._replace(guidance="local", down=spec) for spec in BESIDE),
    Way("lockstep", "host", "int8", "int8"),
    Way("lockstep", "host", UP, "uniform:step=0.8+delta+ans"),
    Way("lockstep", "host", UP.replace("+near", ""), AUTO["auto:image"](About("image", guidance="host"))[1]),
    *(Way("per_step", "local", *pair) for pair in (("fp32", "fp32"), ("fp32", "int8"), ("int8", "int8"))),
    *(Way(mode, guidance, "auto:image", "auto:image") for mode in MODES[::-1] for guidance in ("host", "local")),
)  # fmt: skip
CURVES = 12  # pictures for the curves: half make them, half are measured
ABOUT_RUN = ("name", "quick", "machine")
GOALS = (("down", 0.95, 45.0), ("down", 0.97, 35.0), ("all", 0.92, 45.0))
PARTS = ("noise down", "latents up", "embeddings up", "scheduler and time steps up", "forms and framing", "greeting")


def mixed(every: list[str], quick: bool) -> list[str]:
    """A quarter of the prompts; they are phrased in four ways in turn, and each is in it alike."""
    chosen = [prompt for i, prompt in enumerate(every) if i % 4 == i // 4 % 4]
    return chosen[:2] if quick else chosen


def picture(pipe: Any, prompt: str, seed: int, steps: int) -> np.ndarray:
    """One picture [H, W, 3], 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    call = dict(num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generator, output_type="np")
    return pipe(prompt, **call).images[0]


def real_noise(pipe: Any, prompts: list[str]) -> list[torch.Tensor]:
    """Guided noises [1, 16, 8, 8] of 20-step runs."""
    split, found = lk.split(pipe, mode="lockstep"), []
    for seed, prompt in enumerate(prompts):
        with lk.tap(split) as wire:
            picture(split, prompt, seed, 20)
        found += [
            torch.frombuffer(bytearray(c.data), dtype=torch.float32).reshape(c.shape)
            for c in wire.crossings if c.name == "out"
        ]  # fmt: skip
    return found


def rate(spec: str, tensors: list[torch.Tensor]) -> dict[str, Any]:
    """Bits a value, signal to noise in dB, Shannon's bits for a Gaussian at that error, how far above that it is."""
    codec, size, count, error, power = lk.codec(spec), 0, 0, 0.0, 0.0
    for x in tensors:
        coded = codec.encode(x)
        size, count = size + 8 * len(coded.payload), count + x.numel()
        error += float((codec.decode(coded) - x).double().square().sum())
        power += float((x - x.mean()).double().square().sum())
    shannon = 0.5 * math.log2(power / error)
    bits = size / count
    return {"codec": spec, "bits": round(bits, 3), "snr_db": round(10 * math.log10(power / error), 2),
            "shannon": round(shannon, 3), "above": round(bits - shannon, 3)}  # fmt: skip


def greeting(model: str) -> int:
    """Bytes both ways before a first session: the handshake and hello of a real connection."""
    with lk.host(model) as host, lk.split(lk.load_local(model), body=host.address) as split:
        return sum(split.link.counters()["stream"])


def parts_of(ledger: Any, hello: int) -> dict[str, int]:
    """Bytes of one picture by what they are for, in the order of PARTS."""
    names, payload = ledger["name"], ledger["payload"]
    of = {
        "noise down": ledger["direction"] == "down",
        "latents up": names.isin(["latent", "sample"]),
        "embeddings up": names == "encoder_hidden_states",
    }
    found = {part: int(payload[rows].sum()) for part, rows in of.items()}
    rest, framing = int(payload.sum()) - sum(found.values()), int((ledger["frame"] - payload).sum())
    return found | dict(zip(PARTS[3:], (rest, framing, hello), strict=True))


def drawn(pipe: Any, prompts: list[str], whole: list[np.ndarray], steps: int, way: Way, hello: int) -> dict[str, Any]:
    """What the pictures of one way cost, each on a connection of its own, and how far they are from unsplit ones."""
    codec = way.up if way.up.startswith("auto") else (way.up, way.down)
    split = lk.split(pipe, mode=way.mode, guidance=way.guidance, codec=codec, body="loopback")
    down, values, costs, apart = 0, 0, dict.fromkeys(PARTS, 0), []
    for seed, prompt in enumerate(tqdm(prompts, desc=f"{steps} steps, {', '.join(way)}")):
        with lk.tap(split) as wire:
            made = picture(split, prompt, seed, steps)
        ledger = wire.ledger()
        noise = ledger[ledger["name"] == "out"]
        down, values = down + int(noise["payload"].sum()), values + sum(map(math.prod, noise["shape"]))
        costs = {part: costs[part] + size for part, size in parts_of(ledger, hello).items()}
        apart.append(picture_quality({"split": made}, whole[seed]).loc["split"])
    psnr, ssim, vif, delta_e = (np.median([row[name] for row in apart]) for name in ("psnr", "ssim", "vif", "delta_e"))
    worst = min(row["psnr"] for row in apart)
    return {
        "steps": steps, "mode": way.mode, "guidance": way.guidance, "asked": way.up if codec is way.up else None,
        "up": split.remote.up.spec, "codec": split.remote.down.spec, "bits": round(8 * down / values, 2),
        "down": down / len(prompts), "all": sum(costs.values()) / len(prompts),
        "parts": {part: round(size / len(prompts)) for part, size in costs.items()},
        "psnr": round(float(psnr), 1) if np.isfinite(psnr) else None,
        "worst_psnr": round(float(worst), 1) if np.isfinite(worst) else None,
        "ssim": round(float(ssim), 4), "vif": round(float(vif), 3), "delta_e": round(float(delta_e), 2),
    }  # fmt: skip


def every_way(pipe: Any, prompts: list[str], steps: int, part: Path, hello: int) -> list[dict[str, Any]]:
    """A row for every way; each is written to `part` when it is there, and found there when a run goes on."""
    known = [json.loads(line) for line in part.read_text("utf-8").splitlines()] if part.exists() else []
    done = {(row["prompts"], *row["way"]): row["row"] for row in known if row["row"]["steps"] == steps}
    whole: list[np.ndarray] = []
    for way in WAYS:
        if (len(prompts), *way) in done:
            continue
        whole = whole or [picture(pipe, prompt, seed, steps) for seed, prompt in enumerate(prompts)]
        row = drawn(pipe, prompts, whole, steps, way, hello)
        done[(len(prompts), *way)] = row
        with part.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"prompts": len(prompts), "way": way, "row": row}) + "\n")
    rows = [done[(len(prompts), *way)] for way in WAYS]
    return [row | {f"{n}_saved": round(1 - row[n] / rows[0][n], 4) for n in ("down", "all")} for row in rows]


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each number of steps and each goal (what, saving, PSNR): the row that comes nearest."""
    found = []
    for steps in sorted({row["steps"] for row in rows}):
        for what, saved, psnr in GOALS:
            good = [row for row in rows if row["steps"] == steps and (row["psnr"] or math.inf) >= psnr]
            best = max(good, key=lambda row: row[f"{what}_saved"])
            goal, met = f"{what}: >= {saved:.0%} less at >= {psnr:.0f} dB", best[f"{what}_saved"] >= saved
            found.append({"steps": steps, "goal": goal, "met": met, "saved": best[f"{what}_saved"]}
                         | {k: best[k] for k in ("up", "codec", "psnr", "worst_psnr")})  # fmt: skip
    return found


def beside(rows: list[dict[str, Any]]) -> list[list[object]]:
    """Lines that compare a codec before guidance (local) with the same after it (host)."""
    lines = []
    for after in rows:
        for before in rows:
            same = all(before[k] == after[k] for k in ("steps", "mode", "up", "codec"))
            if same and (after["guidance"], before["guidance"]) == ("host", "local") and after["psnr"]:
                both = [[row[k] for row in (after, before)] for k in ("bits", "psnr", "ssim", "vif", "delta_e")]
                lines.append([after["steps"], f"`{after['codec']}`", *(f"{a} / {b}" for a, b in both),
                              round(after["psnr"] - before["psnr"], 1)])  # fmt: skip
    return lines


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    parts = []
    for name, rows in r["noise"].items():
        parts.append(f"{name}. *Shannon* is the least that a Gaussian source needs at the same squared error.")
        table = [[f"`{x['codec']}`", x["bits"], x["snr_db"], x["shannon"], x["above"]] for x in rows]
        parts.append(common.table(["codec", "bits a value", "SNR (dB)", "Shannon", "above it"], table))
    parts.append(
        f"Pictures of `{r['model']}`, {r['prompts']} prompts, guidance {GUIDANCE}; medians. *Down* is the payload of "
        "the noise, *all* every byte over the socket both ways, each picture on a connection of its own: greeting, "
        "session, embeddings, latents, scheduler, framing. Both are against the first row: lockstep, guided at the "
        "host, FP32 both ways."
    )
    head = ["steps", "mode", "guidance", "up", "down", "bits a value down", "down less", "all less", "PSNR (dB)",
            "worst PSNR", "SSIM", "VIF", "colour"]  # fmt: skip
    parts.append(common.table(head, [
        [x["steps"], x["mode"], x["guidance"], f"`{x['up']}`",
         f"`{x['codec']}`" + (" (`auto:image`)" if x["asked"] else ""), x["bits"],
         f"{x['down_saved']:.1%}", f"{x['all_saved']:.1%}", x["psnr"] or "equal", x["worst_psnr"] or "equal", x["ssim"],
         x["vif"], x["delta_e"]] for x in r["pictures"]
    ]))  # fmt: skip
    parts.append(common.table(["steps", "goal", "met", "best pair", "less", "PSNR (dB)", "worst PSNR"], [
        [g["steps"], g["goal"], "yes" if g["met"] else "no", f"`{g['up']}`, `{g['codec']}`", f"{g['saved']:.1%}",
         g["psnr"], g["worst_psnr"]] for g in r["goals"]
    ]))  # fmt: skip
    parts.append("Where the bytes of one picture go, lockstep, guided at the host.")
    shown = [x for x in r["pictures"] if x["mode"] == "lockstep" and x["guidance"] == "host"]
    shown = [x for x in shown if x["asked"] or (x["up"], x["codec"]) == ("fp32", "fp32")]
    parts.append(common.table(["steps", "codecs", *PARTS, "all"], [
        [x["steps"], x["asked"] or "FP32", *(f"{x['parts'][part]:,}" for part in PARTS), f"{x['all']:,.0f}"]
        for x in shown
    ]))  # fmt: skip
    parts.append(shipped_curves.render(r["curve"]))
    worst = 20 * math.log10(math.hypot(GUIDANCE - 1, GUIDANCE))
    parts.append(
        "Rounded after guidance / before it, lockstep, FP32 up. Guidance at scale s is without + s (with - without): "
        f"it multiplies independent errors of both by sqrt((s - 1)^2 + s^2), {worst:.1f} dB at {GUIDANCE:g}, and twice "
        "as many values come down."
    )
    head = ["steps", "down", "bits a value", "PSNR (dB)", "SSIM", "VIF", "colour", "lost (dB)"]
    parts.append(common.table(head, beside([x for x in r["pictures"] if x["up"] == "fp32"])))
    return "\n\n".join(parts)


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--model", default="emoji-ldm")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50], help="of the pictures")
    parser.add_argument("--curve", action="store_true", help="measure only shipped curves, keep the rest on record")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of a run that was stopped")
    args = parser.parse_args()
    common.one_thread()
    every = [prompt for prompt, _ in json.loads(PROMPTS.read_text("utf-8"))["measured"]]
    prompts = mixed(every, args.quick)
    pipe = lk.load(args.model)
    pipe.set_progress_bar_config(disable=True)

    def curves(rows: list[dict[str, Any]], lengths: list[int]) -> list[dict[str, Any]]:
        return [shipped_curves.measure(pipe, prompts[:CURVES], steps, rows, picture) for steps in lengths]

    if args.curve:
        kept = json.loads((common.RESULTS / "rate_distortion.json").read_text("utf-8"))
        kept["curve"] = [
            shipped_curves.measure(pipe, prompts[:CURVES], steps, kept["pictures"], picture) for steps in args.steps
        ]
        common.finish("rate_distortion", args, {k: v for k, v in kept.items() if k not in ABOUT_RUN}, render(kept))
        return
    gauss = [torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    small = [torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(16)]
    noise = real_noise(pipe, prompts[:10])
    part, hello = common.RESULTS / f"rate_distortion{'-quick' if args.quick else ''}.part.jsonl", greeting(args.model)
    if args.fresh or args.quick:
        part.unlink(missing_ok=True)
    rows = [
        row for steps in ([4] if args.quick else args.steps) for row in every_way(pipe, prompts, steps, part, hello)
    ]  # fmt: skip
    result = {
        "model": args.model, "prompts": len(prompts),
        "noise": {
            "Gaussian, 4,096 values a tensor": [rate(spec, gauss) for spec in NOISE],
            "Gaussian, 1,024 values a tensor": [rate(spec, small) for spec in NOISE if "ans" in spec],
            f"Predicted noise of `{args.model}`, 1,024 values a tensor": [rate(spec, noise) for spec in NOISE],
        },
        "pictures": rows, "goals": goals(rows),
        "curve": curves(rows, sorted({r["steps"] for r in rows})),
    }  # fmt: skip
    common.finish("rate_distortion", args, result, render(result))
    part.unlink()


if __name__ == "__main__":
    main()
