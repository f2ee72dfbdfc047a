"""How good emoji-ldm is: what its auto-encoder keeps, whether a prompt gives the thing it names, and a contact sheet.

python benchmarks/emoji_quality.py [--model FOLDER]; the training pictures come from the same package as in training.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from platformdirs import user_cache_path
from tqdm import tqdm
from transformers.utils import logging

logging.set_verbosity_error()

from diffusers import StableDiffusionPipeline  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import emoji_data as data  # noqa: E402

MODEL = ROOT / "lsplit_kit" / "models" / "emoji_ldm"
SHEET = ROOT / "docs" / "img" / "emoji-contact-sheet.png"
STEPS, GUIDANCE, SEEDS, BATCH = 20, 3.0, (0, 1), 20
PSNR_BAR, NEAR_BAR = 27.0, 0.8


def to_pixels(pictures: list[data.Picture]) -> torch.Tensor:
    """All pixels [n, 3, 64, 64] in [-1, 1]."""
    return torch.from_numpy(np.stack([p.pixels for p in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1


def again(pipe: StableDiffusionPipeline, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures [n, 3, 64, 64] after the auto-encoder, in [-1, 1]."""
    vae = pipe.vae
    parts = [vae.decode(vae.encode(part).latent_dist.mean).sample for part in pixels.split(32)]
    return torch.cat(parts).clamp(-1, 1)


def reconstruction(pipe: StableDiffusionPipeline, pixels: torch.Tensor) -> dict[str, float]:
    """PSNR in dB on the held-back shifts: the mean over pictures, that of the pooled error, and the worst tenth."""
    errors = []
    for x, y in tqdm(data.HELD_BACK_SHIFTS, desc="reconstruction", leave=False):
        moved = torch.roll(pixels, (y, x), (-2, -1))
        errors.append((again(pipe, moved) - moved).square().mean((1, 2, 3)))
    mse = torch.cat(errors)
    psnr = 10 * torch.log10(4 / mse)
    pooled = 10 * torch.log10(4 / mse.mean())
    found = {"mean": psnr.mean(), "pooled": pooled, "tenth_percentile": psnr.quantile(0.1)}
    return {name: round(float(value), 2) for name, value in found.items()}


def draw(pipe: StableDiffusionPipeline, prompts: list[str], seed: int) -> torch.Tensor:
    """One picture [3, 64, 64] in [-1, 1] for each prompt; the k-th prompt's noise has the seed 1000 * seed + k."""
    images = []
    for start in tqdm(range(0, len(prompts), BATCH), desc=f"seed {seed}", leave=False):
        part = prompts[start : start + BATCH]
        noise = [torch.Generator().manual_seed(1000 * seed + start + k) for k in range(len(part))]
        images.append(
            pipe(part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise, output_type="pt").images
        )
    return torch.cat(images) * 2 - 1


def ranks(images: torch.Tensor, wanted: list[int], known: torch.Tensor) -> list[int]:
    """How many things are nearer than the wanted one; `known` [2, n, 3, 64, 64] has each one and its mirror image."""
    near = torch.stack([torch.cdist(images.flatten(1), side.flatten(1)) for side in known]).amin(0)
    return [int((row < row[i]).sum()) for row, i in zip(near, wanted, strict=True)]


def contact_sheet(images: torch.Tensor, prompts: list[str], columns: int = 8) -> Image.Image:
    """The pictures at twice their size with their prompts below."""
    side, line = 2 * data.SIDE, 18
    rows = -(-len(prompts) // columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + line)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for k, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        x, y = k % columns * side, k // columns * (side + line)
        array = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(array).resize((side, side), Image.Resampling.BICUBIC), (x, y))
        pen.text((x + side // 2, y + side + line // 2 - 2), prompt, "#1a1a1a", font, "mm")
    return sheet


def render(r: dict) -> str:
    """The result as Markdown."""
    share = r["near"]
    rows = [
        ["auto-encoder, held-back shifts: PSNR (mean over pictures)", f"{r['psnr']['mean']} dB", f">= {PSNR_BAR} dB"],
        ["the same, of the pooled error", f"{r['psnr']['pooled']} dB", ""],
        ["prompts whose emoji is among the five nearest, each seed", f"{share['top5']:.1%}", ""],
        ["the same, with both seeds", f"{share['top5_both']:.1%}", f">= {NEAR_BAR:.0%}"],
        ["prompts whose emoji is the nearest, each seed", f"{share['top1']:.1%}", ""],
        ["colour and form never seen together: among the five nearest", f"{share['unseen_top5']:.0%}", ""],
    ]
    said = (
        f"`emoji-ldm`, {r['prompts']} fixed prompts, {len(SEEDS)} seeds, {r['steps']} DDIM steps, guidance "
        f"{r['guidance']}; nearest by pixel distance among {r['pictures']} training pictures after the auto-encoder. "
        "The model has memorised its training set: this measures how well, and says nothing about new things."
    )
    return f"{said}\n\n{common.table(['what', 'measured', 'bar'], rows)}"


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the pipeline")
    parser.add_argument("--work", type=Path, default=user_cache_path("lsplit-kit") / "training" / "emoji-ldm")
    args = parser.parse_args()
    common.one_thread()
    args.work.mkdir(parents=True, exist_ok=True)
    pictures = data.load(args.work)
    where = {name: i for i, p in enumerate(pictures) for name in p.names}
    fixed = json.loads((Path(__file__).parent / "emoji_prompts.json").read_text("utf-8"))
    asked = fixed["measured"][:: 20 if args.quick else 1]
    pipe = StableDiffusionPipeline.from_pretrained(args.model, safety_checker=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pixels = to_pixels(pictures)
    unseen = [data.shape(c, f, 24) for c, f in data.HELD_BACK]
    with torch.inference_mode():
        psnr = reconstruction(pipe, pixels[:: 40 if args.quick else 1])
        known = torch.stack([again(pipe, pixels), again(pipe, pixels.flip(-1))])
        wanted = [where[name] for _, name in asked]
        got = [ranks(draw(pipe, [p for p, _ in asked], seed), wanted, known) for seed in SEEDS]
        strange = to_pixels([data.Picture((), "", s, False) for s in unseen])
        more = torch.cat([known, again(pipe, strange).expand(2, -1, -1, -1, -1)], 1)
        mixed = [
            ranks(draw(pipe, [f"a {c} {f}" for c, f in data.HELD_BACK], seed), list(range(-len(unseen), 0)), more)
            for seed in SEEDS
        ]
        if not args.quick:
            sheet = contact_sheet(draw(pipe, fixed["sheet"], 0), fixed["sheet"])
            SHEET.parent.mkdir(parents=True, exist_ok=True)
            sheet.save(SHEET, optimize=True)
    rank, odd = torch.tensor(got), torch.tensor(mixed)
    near = {
        "top1": (rank == 0).float().mean(),
        "top5": (rank < 5).float().mean(),
        "top5_both": (rank < 5).all(0).float().mean(),
        "unseen_top5": (odd < 5).float().mean(),
    }
    missed = [[p, r] for (p, _), *r in zip(asked, *got, strict=True) if max(r) >= 5]
    result = {
        "weights": hashlib.sha256(
            (args.model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
        ).hexdigest(),
        "prompts": len(asked),
        "pictures": len(pictures),
        "steps": STEPS,
        "guidance": GUIDANCE,
        "psnr": psnr,
        "near": {name: round(float(value), 4) for name, value in near.items()},
        "missed": missed,
    }
    result["passes"] = psnr["mean"] >= PSNR_BAR and result["near"]["top5_both"] >= NEAR_BAR
    common.finish("emoji_quality", args, result, render(result))


if __name__ == "__main__":
    main()
