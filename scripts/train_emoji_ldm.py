"""Train emoji-ldm, the small text-to-image latent diffusion model that ships with the kit.

python scripts/train_emoji_ldm.py --out lsplit_kit/models/emoji_ldm

Five stages, read from top to bottom: data -> vae -> latents -> unet -> save. Run the same command again after an
interruption and it goes on where it was (at most two minutes are lost): each step draws its random numbers from a
generator seeded by (stage, step), so there is no other random state, and within a stage a resumed run equals an
undisturbed one. One CPU core needs about two hours. `--work` keeps checkpoints, a log, and pictures of samples.
"""

from __future__ import annotations

import argparse
import copy
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import emoji_data as data  # noqa: E402
import emoji_model as model  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from platformdirs import user_cache_path  # noqa: E402
from tqdm import tqdm  # noqa: E402

SEED = 16
SAVE_EVERY = 90  # seconds between two checkpoints
VAE = dict(steps=4000, batch=16, lr=1.5e-3)
UNET = dict(steps=7000, batch=32, lr=1e-3)
PREVIEW_PROMPTS = [
    "a red apple", "a dog", "octopus", "a cat", "sunflower", "hamburger", "rocket", "a blue circle", "tiger", "banana",
    "pizza", "guitar", "a house", "umbrella", "happy face", "red heart", "penguin", "a bike", "a key", "cactus",
]  # fmt: skip


def generator(stage: str, step: int) -> torch.Generator:
    """The random numbers of one step of one stage."""
    return torch.Generator().manual_seed(SEED * 10**9 + (10**8 if stage == "unet" else 0) + step)


@functools.lru_cache(maxsize=4)
def shuffled(stage: str, epoch: int, n: int) -> torch.Tensor:
    """The order of the n pictures in one epoch."""
    return torch.randperm(n, generator=generator(stage, 5 * 10**7 + epoch))


def picks(stage: str, step: int, batch: int, n: int) -> torch.Tensor:
    """Indices [batch] of the pictures of one step: every picture once an epoch."""
    places = range(step * batch, (step + 1) * batch)
    return torch.stack([shuffled(stage, p // n, n)[p % n] for p in places])


def shifted(pixels: torch.Tensor, shift: tuple[int, int], mirror: bool) -> torch.Tensor:
    """A picture [3, 64, 64] moved by (x, y) pixels within its white margin, mirrored first if asked."""
    return torch.roll(pixels.flip(-1) if mirror else pixels, (shift[1], shift[0]), (-2, -1))


def save_atomically(state: dict, path: Path) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one, whole."""
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def digest(*things: torch.Tensor | str) -> str:
    """The SHA-256 of tensors and texts: which inputs a checkpoint belongs to."""
    found = hashlib.sha256()
    for thing in things:
        found.update(thing.encode() if isinstance(thing, str) else thing.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def say(work: Path, text: str) -> None:
    """One line to the log file and to the screen."""
    line = f"{time.strftime('%H:%M:%S')} {text}"
    with open(work / "log.txt", "a", encoding="utf-8") as log:
        log.write(line + "\n")
    tqdm.write(line)


def train(
    stage: str,
    parts: torch.nn.ModuleDict,
    loss_of: Callable[[int], torch.Tensor],
    origin: str,
    steps: int,
    lr: float,
    work: Path,
    preview: Callable[[torch.nn.ModuleDict, Path], None],
    every: int,
) -> torch.nn.ModuleDict:
    """AdamW on `loss_of(step)` with warm-up, cosine decay, clipping and an EMA, which is returned; it resumes."""
    ema = copy.deepcopy(parts).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(parts.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    path, begin, mean_loss = work / f"{stage}.pt", 0, None
    if path.exists():
        state = torch.load(path, weights_only=True)
        if state["inputs"] != origin:
            raise ValueError(f"{path} was trained on other data than today's: delete it or name another --work")
        parts.load_state_dict(state["parts"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        begin, mean_loss = state["step"], state["mean_loss"]
        say(work, f"{stage}: going on from step {begin} of {steps}")
    saved = time.monotonic()
    for step in tqdm(range(begin, steps), desc=stage, initial=begin, total=steps, mininterval=2):
        now = lr * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = now
        loss = loss_of(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            keep = min(0.998, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(ema.parameters()), list(parts.parameters()), 1 - keep)
        mean_loss = loss.item() if mean_loss is None else 0.98 * mean_loss + 0.02 * loss.item()
        done = step + 1
        if done % 100 == 0:
            say(work, f"{stage}: step {done} of {steps}, loss {mean_loss:.4f}, lr {now:.2e}")
        if done == steps or time.monotonic() - saved > SAVE_EVERY:
            state = {"parts": parts.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
            save_atomically({**state, "step": done, "mean_loss": mean_loss, "inputs": origin}, path)
            saved = time.monotonic()
        if done % every == 0 or done == steps:
            preview(ema, work / f"{stage}-{done:05d}.png")
    return ema


def grid(pixels: torch.Tensor, columns: int, path: Path) -> None:
    """Pictures [n, 3, 64, 64] in [-1, 1], side by side in one file."""
    tiles = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    tiles = np.concatenate([tiles, np.full((-len(tiles) % columns, *tiles.shape[1:]), 255, np.uint8)])
    rows = tiles.reshape(-1, columns, *tiles.shape[1:]).swapaxes(1, 2)
    Image.fromarray(rows.reshape(rows.shape[0] * data.SIDE, columns * data.SIDE, 3)).save(path)


# ---- data ------------------------------------------------------------------------------------------------------------


def stack(pictures: list[data.Picture]) -> torch.Tensor:
    """All pixels [n, 3, 64, 64] in [-1, 1]."""
    return torch.from_numpy(np.stack([p.pixels for p in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1


# ---- vae -------------------------------------------------------------------------------------------------------------


def train_vae(pixels: torch.Tensor, mirrored: torch.Tensor, work: Path, steps: int, every: int) -> model.AutoencoderKL:
    """The auto-encoder: L1, MSE and edges of the reconstruction, and a touch of KL that keeps the code smooth."""
    torch.manual_seed(SEED)
    parts = torch.nn.ModuleDict({"vae": model.new_vae()})

    def loss_of(step: int) -> torch.Tensor:
        rng = generator("vae", step)
        chosen = picks("vae", step, VAE["batch"], len(pixels))
        moves = torch.randint(len(data.TRAINED_SHIFTS), (len(chosen),), generator=rng)
        flips = (torch.rand(len(chosen), generator=rng) < 0.5) & mirrored[chosen]
        plan = zip(chosen, moves, flips, strict=True)
        x = torch.stack([shifted(pixels[i], data.TRAINED_SHIFTS[move], bool(flip)) for i, move, flip in plan])
        with torch.autocast("cpu", torch.bfloat16):
            code = parts["vae"].encode(x).latent_dist
            noise = torch.randn(code.mean.shape, generator=rng)
            y = parts["vae"].decode(code.mean + code.std * noise).sample
        d = y.float() - x
        edges = d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()
        return d.abs().mean() + 4 * d.square().mean() + 0.5 * edges + 6e-6 * code.kl().float().mean()

    def preview(ema: torch.nn.ModuleDict, path: Path) -> None:
        some = torch.stack([shifted(p, data.HELD_BACK_SHIFTS[0], False) for p in pixels[:: len(pixels) // 80][:80]])
        with torch.no_grad():
            again = ema["vae"](some).sample.clamp(-1, 1)
        psnr = 10 * torch.log10(4 / (again - some).square().mean((1, 2, 3)))
        say(work, f"vae: PSNR {psnr.mean():.2f} dB (mean of {len(some)} pictures, held-back shift)")
        grid(torch.stack([some, again], 1).flatten(0, 1), 20, path)

    return train("vae", parts, loss_of, digest(pixels), steps, VAE["lr"], work, preview, every)["vae"]


# ---- unet ------------------------------------------------------------------------------------------------------------


def train_unet(
    pictures: list[data.Picture],
    latents: torch.Tensor,
    vae: model.AutoencoderKL,
    encoder: torch.Tensor,
    work: Path,
    steps: int,
    every: int,
) -> model.StableDiffusionPipeline:
    """The denoiser on latents [2, n, 16, 8, 8] (as they are, mirrored), one caption in ten empty, all forms in turn."""
    said = [data.captions(p) for p in pictures]
    tokenizer = model.kept_tokenizer(work / "tokenizer", [c for forms in said for c in forms])
    origin = digest(encoder, json.dumps(said), json.dumps(sorted(tokenizer.get_vocab().items())))
    ids, empty = [model.tokens(tokenizer, forms) for forms in said], model.tokens(tokenizer, [""])[0]
    torch.manual_seed(SEED)
    parts, scheduler = model.new_denoiser(tokenizer), model.new_scheduler()

    def loss_of(step: int) -> torch.Tensor:
        rng = generator("unet", step)
        chosen = picks("unet", step, UNET["batch"], len(pictures))
        n = len(chosen)
        luck = torch.rand(3, n, generator=rng)
        words = [
            empty if luck[0, k] < 0.1 else ids[i][int(luck[1, k] * len(ids[i]))] for k, i in enumerate(chosen.tolist())
        ]
        mirror = [int(luck[2, k] < 0.5 and pictures[i].mirrored) for k, i in enumerate(chosen.tolist())]
        x, noise = latents[mirror, chosen], torch.randn((n, *latents.shape[2:]), generator=rng)
        t = ((torch.arange(n) + torch.rand(n, generator=rng)) / n * len(scheduler.alphas_cumprod)).long()
        noisy = scheduler.add_noise(x, noise, t)
        aim = noise if model.PREDICTION == "epsilon" else scheduler.get_velocity(x, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = parts["text"](torch.stack(words)).last_hidden_state
            guess = parts["unet"](noisy, t, hidden).sample
        return (guess.float() - aim).square().mean()

    def preview(ema: torch.nn.ModuleDict, path: Path) -> None:
        pipe = model.new_pipeline(vae, ema, tokenizer)
        seeds = [torch.Generator().manual_seed(k) for k in range(len(PREVIEW_PROMPTS))]
        images = pipe(PREVIEW_PROMPTS, num_inference_steps=20, guidance_scale=3.0, generator=seeds, output_type="pt")
        grid(images.images * 2 - 1, 10, path)

    return model.new_pipeline(
        vae, train("unet", parts, loss_of, origin, steps, UNET["lr"], work, preview, every), tokenizer
    )


# ---- save ------------------------------------------------------------------------------------------------------------


def save(pipe: model.StableDiffusionPipeline, out: Path, facts: dict[str, object]) -> None:
    """Write the pipeline in fp16, with its model card and the facts of its training."""
    for part in (pipe.vae, pipe.unet, pipe.text_encoder):
        part.half()
    pipe.save_pretrained(out)
    for weights in out.glob("*/*.safetensors"):
        weights.chmod(0o644)  # they are written for their owner only
    config = out / "text_encoder" / "config.json"  # transformers would load what this says, and the others load as fp32
    config.write_text(
        json.dumps({**json.loads(config.read_text("utf-8")), "dtype": "float32"}, indent=2) + "\n", "utf-8"
    )
    parts = {"vae": pipe.vae, "unet": pipe.unet, "text_encoder": pipe.text_encoder}
    sizes = {f"{name}_parameters": sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    facts |= {"batch_vae": VAE["batch"], "batch_unet": UNET["batch"], "seed": SEED, "prediction": model.PREDICTION}
    facts |= {**sizes, "total_millions": round(sum(sizes.values()) / 1e6, 1), "package": data.PACKAGE}
    facts |= {"sha256": data.SHA256}
    card = (Path(__file__).parent / "emoji_model_card.md").read_text("utf-8")
    (out / "MODEL_CARD.md").write_text(card.format(**facts), "utf-8")
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


def main() -> None:
    """Run the five stages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished pipeline")
    parser.add_argument("--work", type=Path, default=user_cache_path("lsplit-kit") / "training" / "emoji-ldm")
    parser.add_argument("--steps-vae", type=int, default=VAE["steps"])
    parser.add_argument("--steps-unet", type=int, default=UNET["steps"])
    parser.add_argument("--preview", type=int, default=500, help="steps between two pictures of samples")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)

    pictures = data.load(args.work)
    pixels, mirrored = stack(pictures), torch.tensor([p.mirrored for p in pictures])
    vae = train_vae(pixels, mirrored, args.work, args.steps_vae, args.preview)
    encoder = torch.cat([p.flatten() for p in vae.parameters()])
    both = model.encode(vae, torch.cat([pixels, pixels.flip(-1)]))
    latents = model.normalise(vae, both).unflatten(0, (2, len(pixels)))
    pipe = train_unet(pictures, latents, vae, encoder, args.work, args.steps_unet, args.preview)
    save(pipe, args.out, {"pictures": len(pictures), "steps_vae": args.steps_vae, "steps_unet": args.steps_unet})


if __name__ == "__main__":
    main()
