"""The part of rate_distortion.py about curves that need not cross: would a calibration for pictures save bytes?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import common
import numpy as np
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.quantization import entropy

Draw = Callable[[Any, str, int, int], np.ndarray]  # (pipeline, prompt, seed, steps) -> picture


def numbers_down(pipe: Any, prompts: list[str], steps: int, draw: Draw) -> np.ndarray:
    """Whole numbers [pictures, steps, values] that auto:image's range coder gets of what comes down."""
    split = lk.split(pipe, mode="lockstep", codec=("fp32", "auto:image"), body="loopback")
    found, fit = [], entropy.fitted
    entropy.fitted = lambda numbers, low, high: (found.append(numbers.copy()), fit(numbers, low, high))[1]
    try:
        for seed, prompt in enumerate(tqdm(prompts, desc=f"numbers of {steps} steps")):
            draw(split, prompt, seed, steps)
    finally:
        entropy.fitted = fit
    return np.stack(found).reshape(len(prompts), steps, -1)


def measure(pipe: Any, prompts: list[str], steps: int, rows: list[dict[str, Any]], draw: Draw) -> dict[str, Any]:
    """Bytes a picture with each tensor's own curve, and with curves made of other pictures that need not cross."""
    half = len(prompts) // 2
    numbers = numbers_down(pipe, prompts, steps, draw)
    known, ours = numbers[:half], numbers[half:]
    own = sum(len(entropy.Ans().pack(x)) for x in ours.reshape(-1, ours.shape[-1])) / len(ours)
    costs = {}
    for name, groups in {"step": [known[:, k] for k in range(steps)], "one": [known] * steps}.items():
        costs[name] = 0.0
        for k, group in enumerate(groups):
            low, high = int(numbers.min()) - 8, int(numbers.max()) + 8  # as wide as any picture here needs
            bits = -np.log2(entropy.model_of(entropy.fitted(group.ravel(), low, high))[1])
            costs[name] += sum(4 * math.ceil(bits[x - low].sum() / 32) for x in ours[:, k]) / len(ours)
    mine = [row for row in rows if (row["steps"], row["mode"], row["guidance"]) == (steps, "lockstep", "host")]
    all_ = {row["asked"]: row["all"] for row in mine if row["asked"] or (row["up"], row["codec"]) == ("fp32", "fp32")}
    return {"steps": steps, "pictures": len(ours), "own": round(own), **{k: round(v) for k, v in costs.items()},
            "all": all_["auto:image"], "fp32": all_[None]}  # fmt: skip


def render(rows: list[dict[str, Any]]) -> str:
    """The part as Markdown."""
    said = (
        "Would a shipped curve help? Bytes a picture that the range coder makes of the noise, auto:image, guided at "
        "the host: with a curve for each tensor, which crosses; with one for each time step, or one for all, made of "
        "other prompts' pictures and shipped. The gain is of the better one: in bytes, as a share of all that crosses, "
        "and in percentage points of what crosses in FP32."
    )
    lines = []
    for c in rows:
        gain = c["own"] - min(c["step"], c["one"])
        lines.append([c["steps"], c["pictures"], c["own"], c["step"], c["one"], gain, f"{gain / c['all']:.2%}",
                      f"{100 * gain / c['fp32']:.2f}"])  # fmt: skip
    head = ["steps", "pictures", "own curves", "curve a step", "one curve", "gain", "of all", "points of FP32"]
    return f"{said}\n\n{common.table(head, lines)}"
