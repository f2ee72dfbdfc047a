"""How many bits a value of predicted noise needs: codecs against Shannon's bound, and what they do to the picture.

Noise: the guided noise of real runs of emoji-ldm, and Gaussian values. Pictures: lockstep, the same prompts and seeds.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.measure import picture_quality

PROMPTS = Path(__file__).parent / "emoji_prompts.json"
GUIDANCE = 3.0
NOISE = (
    "fp16", "bf16", "fp8:e4m3", "fp8:e5m2", "int8", "int8:clip=mse", "int6", "int4", "int4:clip=mse", "int4:group=64",
    "nf4:group=64", "int3", "int2", "uniform:snr=40+zstd", "uniform:snr=40+ans", "uniform:snr=30+ans",
    "uniform:snr=20+zstd", "uniform:snr=20+ans", "uniform:snr=12+ans", "uniform:snr=4+ans",
)  # fmt: skip
PICTURES = (
    "fp16", "int8", "int6", "int4", "int4:clip=mse", "int2", "uniform:step=0.1+ans", "uniform:step=0.1+delta+ans",
    "uniform:step=0.2+delta+ans", "uniform:step=0.3+delta+ans", "uniform:step=0.5+delta+ans",
    "uniform:step=0.8+delta+ans", "uniform:step=1.2+delta+ans",
)  # fmt: skip
GOALS = ((0.95, 45.0), (0.97, 35.0))


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


def drawn(pipe: Any, prompts: list[str], steps: int, specs: tuple[str, ...]) -> list[dict[str, Any]]:
    """For every codec: what comes down and everything in frames against FP32 lockstep, and the pictures' distances."""
    whole = [picture(pipe, prompt, seed, steps) for seed, prompt in enumerate(tqdm(prompts, desc=f"unsplit, {steps}"))]
    rows, full = [], (0, 0)
    for spec in ("fp32", *specs):
        split, down, frames, apart = lk.split(pipe, mode="lockstep", codec=("fp32", spec), body="loopback"), 0, 0, []
        for seed, prompt in enumerate(tqdm(prompts, desc=f"{spec}, {steps}")):
            with lk.tap(split) as wire:
                made = picture(split, prompt, seed, steps)
            totals = wire.totals()
            down, frames = down + int(totals.loc["down", "payload"]), frames + int(totals["frame"].sum())
            apart.append(picture_quality({"split": made}, whole[seed]).loc["split"])
        full = (down, frames) if spec == "fp32" else full
        psnr, ssim, vif, delta_e = (
            np.median([row[name] for row in apart]) for name in ("psnr", "ssim", "vif", "delta_e")
        )
        rows.append({
            "steps": steps, "codec": spec, "bits": round(8 * down / len(prompts) / steps / 1024, 2),
            "down_saved": round(1 - down / full[0], 4), "all_saved": round(1 - frames / full[1], 4),
            "psnr": round(float(psnr), 1) if np.isfinite(psnr) else None,
            "worst_psnr": round(float(min(row["psnr"] for row in apart)), 1) if np.isfinite(psnr) else None,
            "ssim": round(float(ssim), 4), "vif": round(float(vif), 3), "delta_e": round(float(delta_e), 2),
        })  # fmt: skip
    return rows


def goals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each number of steps and each goal (saving, PSNR): the codec that comes nearest."""
    found = []
    for steps in sorted({row["steps"] for row in rows}):
        for saved, psnr in GOALS:
            good = [row for row in rows if row["steps"] == steps and (row["psnr"] or math.inf) >= psnr]
            best = max(good, key=lambda row: row["down_saved"])
            goal, met = f">= {saved:.0%} at >= {psnr:.0f} dB", best["down_saved"] >= saved
            found.append(
                {"steps": steps, "goal": goal, "met": met} | {k: best[k] for k in ("codec", "down_saved", "psnr")}
            )
    return found


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    parts = []
    for name, rows in r["noise"].items():
        parts.append(f"{name}. *Shannon* is the least that a Gaussian source needs at the same squared error.")
        table = [[f"`{x['codec']}`", x["bits"], x["snr_db"], x["shannon"], x["above"]] for x in rows]
        parts.append(common.table(["codec", "bits a value", "SNR (dB)", "Shannon", "above it"], table))
    parts.append(
        f"Pictures of `{r['model']}`, {r['prompts']} prompts, guidance {GUIDANCE}, guided noise, lockstep; medians. "
        "*Down* is the payload of the noise against FP32, *all* every frame both ways, embeddings, latent and greeting "
        "included, against FP32 noise."
    )
    head = ["steps", "codec", "bits a value", "down", "all", "PSNR (dB)", "worst PSNR", "SSIM", "VIF", "colour"]
    parts.append(common.table(head, [
        [x["steps"], f"`{x['codec']}`", x["bits"], f"-{x['down_saved']:.1%}", f"-{x['all_saved']:.1%}",
         x["psnr"] or "equal", x["worst_psnr"] or "equal", x["ssim"], x["vif"], x["delta_e"]] for x in r["pictures"]
    ]))  # fmt: skip
    parts.append(common.table(["steps", "goal for what comes down", "met", "best codec", "down", "PSNR (dB)"], [
        [g["steps"], g["goal"], "yes" if g["met"] else "no", f"`{g['codec']}`", f"-{g['down_saved']:.1%}", g["psnr"]]
        for g in r["goals"]
    ]))  # fmt: skip
    return "\n\n".join(parts)


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--model", default="emoji-ldm")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50], help="of the pictures")
    args = parser.parse_args()
    common.one_thread()
    every = [prompt for prompt, _ in json.loads(PROMPTS.read_text("utf-8"))["measured"]]
    prompts = every[::100] if args.quick else every[::4]
    pipe = lk.load(args.model)
    pipe.set_progress_bar_config(disable=True)
    gauss = [torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    small = [torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(16)]
    noise = real_noise(pipe, prompts[:10])
    rows = [row for steps in ([4] if args.quick else args.steps) for row in drawn(pipe, prompts, steps, PICTURES)]
    result = {
        "model": args.model, "prompts": len(prompts),
        "noise": {
            "Gaussian, 4,096 values a tensor": [rate(spec, gauss) for spec in NOISE],
            "Gaussian, 1,024 values a tensor": [rate(spec, small) for spec in NOISE if "ans" in spec],
            f"Predicted noise of `{args.model}`, 1,024 values a tensor": [rate(spec, noise) for spec in NOISE],
        },
        "pictures": rows, "goals": goals(rows),
    }  # fmt: skip
    common.finish("rate_distortion", args, result, render(result))


if __name__ == "__main__":
    main()
