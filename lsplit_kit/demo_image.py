"""The demonstration behind `lsplit demo --image`: one picture, unsplit and over a real host, compared and counted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .errors import UnsupportedOption

Write = Callable[[str], None]
MOST_STEPS = 999  # schedulers have a thousand training steps, and some begin to count at one


def run_image_demo(
    prompt: str, name: str, steps: int, mode: str, codec: str, seed: int, save_to: Path, write: Write | None = None
) -> dict[str, Any]:
    """Make the picture twice from one seed, save the split one, and return the report; `write` gets progress lines."""
    import lsplit_kit as lk

    from .measure import picture_quality
    from .quantization.auto import is_auto

    say = write or (lambda text: None)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    _check(prompt, name, steps, mode, codec, save_to)
    say(f"loading {name} ...\n")
    pipe = lk.load(name)
    pipe.set_progress_bar_config(disable=write is None)
    with lk.host(name) as host:
        split = lk.split(pipe, body=host.address, mode=mode, codec=codec if is_auto(codec) else ("fp32", codec))
        say(f"{prompt!r} in {steps} steps; the denoiser is in process {host.pid} at {host.address}\n")
        with lk.tap(split) as wire:
            ours, split_s = _timed(split, prompt, steps, seed)
        split.close()
        held = {"host_pid": host.pid, "host_holds": [int(x) for x in host.holds]}
    say("now the unsplit pipeline, for comparison ...\n")
    whole, unsplit_s = _timed(pipe, prompt, steps, seed)
    ours.save(save_to)
    quality = picture_quality({"split": ours}, whole).loc["split"]
    ledger, totals = wire.ledger(), wire.totals()
    up, noise = (ledger[(ledger["direction"] == way) & (ledger["step"] > 0)] for way in ("up", "down"))
    once, later = (int(rows["payload"].sum()) for rows in (up[up["step"] == 1], up[up["step"] > 1]))
    calls = int(ledger["step"].max())
    fp32 = 4 * sum(_values(shape) for shape in noise["shape"])
    paper = int(up.loc[up["step"] == 1, "tensor"].sum()) + fp32
    sent = int(totals["payload"].sum())
    return {
        "model": name,
        "prompt": prompt,
        "seed": seed,
        "plan": {"at": "denoiser", "parts": held["host_holds"]},
        "steps": steps,
        "mode": mode,
        "codec": {"up": split.remote.up.spec, "down": split.remote.down.spec},
        "images_identical": bool(quality["psnr"] == float("inf")),
        "psnr": float(quality["psnr"]) if quality["psnr"] < float("inf") else None,  # None: bit-equal
        "ssim": float(quality["ssim"]),
        "bytes": {d: {k: int(totals.loc[d, k]) for k in ("tensor", "payload", "frame")} for d in ("up", "down")},
        "first_up_payload_bytes": once,
        "each_step_payload_bytes": {"up": later / max(calls - 1, 1), "down": int(noise["payload"].sum()) / calls},
        "noise_down_payload_bytes": {"sent": int(noise["payload"].sum()), "fp32": fp32},
        "paper_payload_bytes": paper,
        "reduction": 1 - sent / paper,
        "seconds": {"split": split_s, "unsplit": unsplit_s},
        "file": str(save_to),
        **held,
    }


def image_report_lines(r: dict[str, Any]) -> list[str]:
    """The report as a person reads it."""
    up, down, noise = r["bytes"]["up"], r["bytes"]["down"], r["noise_down_payload_bytes"]
    each = r["each_step_payload_bytes"]
    rows = [f"  {d:<5}{b['tensor']:>12,}{b['payload']:>12,}{b['frame']:>12,}" for d, b in (("up", up), ("down", down))]
    same = "bit-equal" if r["images_identical"] else f"PSNR {r['psnr']:.1f} dB, SSIM {r['ssim']:.4f}"
    return [
        "",
        f"saved as {r['file']}; next to the unsplit picture of the same seed: {same}",
        f"the host (pid {r['host_pid']}) held the denoiser: no autoencoder, no text encoder, no tokenizer",
        f"bytes  {'tensor':>10}{'payload':>12}{'frame':>12}   ({r['steps']} steps, {r['mode']})",
        *rows,
        f"payload: first step up {r['first_up_payload_bytes']:,} (text embeddings, latent, scheduler), each later "
        f"step up {each['up']:,.0f}, each step down {each['down']:,.0f}",
        f"noise down {noise['sent']:,} as {r['codec']['down']}, {noise['fp32']:,} as FP32: "
        f"{_change(noise['sent'], noise['fp32'])}",
        f"everything against the paper's protocol (up once, FP32 noise down at every step), "
        f"{r['paper_payload_bytes']:,}: {_change(up['payload'] + down['payload'], r['paper_payload_bytes'])}",
        f"seconds: {r['seconds']['split']:.1f} split, {r['seconds']['unsplit']:.1f} unsplit (one thread a process)",
    ]


def _check(prompt: str, name: str, steps: int, mode: str, codec: str, save_to: Path) -> None:
    """What can be wrong is said before anything is loaded."""
    from PIL import Image

    from .models.names import is_picture
    from .quantization import codec as codec_of
    from .quantization.auto import is_auto
    from .wire.message import MODES

    if not prompt.strip():
        raise UnsupportedOption("The prompt is empty; describe a picture.")
    if mode not in MODES:
        raise UnsupportedOption(f"Unknown mode {mode!r}; choose one of {', '.join(MODES)}.")
    if not is_auto(codec):
        codec_of(codec)
    if not 1 <= steps <= MOST_STEPS:
        raise UnsupportedOption(f"steps is a number from 1 to {MOST_STEPS}, got {steps}.")
    if not is_picture(name):
        raise UnsupportedOption(f"{name} makes no pictures; --image takes a pipeline's name or folder (lsplit models).")
    if save_to.suffix.lower() not in Image.registered_extensions():
        raise UnsupportedOption(f"{save_to} cannot be written: its ending names no picture format; use .png.")
    new = not save_to.exists()
    try:
        save_to.open("ab").close()  # a real try: who may write is no question for a guess
    except OSError:
        raise UnsupportedOption(f"{save_to} cannot be written: give a file in a folder that exists.") from None
    if new:
        save_to.unlink()


def _change(ours: int, theirs: int) -> str:
    share = 1 - ours / theirs
    return f"{abs(share):.1%} {'less' if share >= 0 else 'more'}"


def _timed(pipe: Any, prompt: str, steps: int, seed: int) -> tuple[Any, float]:
    begin = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, num_inference_steps=steps, generator=generator).images[0], time.perf_counter() - begin


def _values(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
