"""What attacks paint off the wire of pictures: attack x cut x mode x codec x observer, two controls, and prompts.

`emoji-ldm`, guided pictures of 20 DDIM steps; the attacker has the public pipeline and prompts of its own, others than
the learner's. Rows are written as they come, and a run that was stopped goes on where it was (`--fresh` begins anew).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import common
import numpy as np
from scipy.stats import binomtest
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks import Knowledge, Reconstruction, report
from lsplit_kit.attacks import pictures as A
from lsplit_kit.attacks.pictures.ladder import changed
from lsplit_kit.attacks.pictures.report import middle
from lsplit_kit.measure.resample import mean_by_document

STEPS, SCALE, SEED, OWN, MANY, FEW = 20, 3.0, 100, 24, 16, 6
DENOISER = [(mode, spec) for mode in ("per_step", "lockstep") for spec in ("fp32", "int8", "auto:image")]
INSIDE = [(depth, spec) for depth in (0, 1, 2) for spec in ("fp32", "int8")]


def own_and_theirs(count: int) -> tuple[list[str], list[str]]:
    """Prompts of the attacker's and the learner's, none in both."""
    every = [prompt for prompt, _ in json.loads((common.RESULTS.parent / "emoji_prompts.json").read_text())["measured"]]
    theirs = every[::8][:count]
    return [prompt for prompt in every[4::8] if prompt not in theirs][:OWN], theirs


def attackers(mode: str, depth: int | None, codec: str) -> list[tuple[str, A.PictureAttack]]:
    """(observer, attack) of a cut: depth of one inside, None at the denoiser."""
    if depth is None:
        control = ("cloud", A.MeanPicture(guidance=SCALE))  # the same on every wire, so once is enough
        first = [control] if (mode, codec) == DENOISER[0] else []
        early, middle = A.CleanEstimate(step=0), A.CleanEstimate(step=STEPS // 2 - 1)
        both = [("cloud", attack) for attack in (early, middle, A.ReplaySampler())]
        down = [A.Telescope(guidance=SCALE), A.FittedTelescope(guidance=SCALE)]
        return [*first, *both, ("eavesdrop_up", A.OwnReplay()), *(("eavesdrop_down", attack) for attack in down)]
    decoder = [("cloud", A.HiddenInversion(iterations=0, queries=256))]
    alone = [("eavesdrop_up", A.HiddenInversion())]  # deeper, every trial runs the whole denoiser
    return [*decoder, ("cloud", A.HiddenInversion()), *(alone if codec == "fp32" and depth < 2 else [])]


def rolled(found: Any) -> Any:
    """What was found, given to the next picture instead: how near a picture is to another one of its kind."""
    names = ("tokens", "top") if isinstance(found, Reconstruction) else ("latents", "steps", "pictures")
    moved = {name: [*getattr(found, name)[1:], getattr(found, name)[0]] for name in names}
    return replace(found, **moved) if isinstance(found, Reconstruction) else replace(found, **moved, reads=None)


def near(values: Sequence[float]) -> dict[str, Any]:
    """The mean over pictures and its 95 % interval."""
    mean = mean_by_document(values, range(len(values)))
    return {"mean": round(mean.value, 4), "low": round(min(1, mean.interval.low), 4),
            "high": round(min(1, mean.interval.high), 4)}  # fmt: skip


def decibels(values: Any) -> float | None:
    """The median in dB, of two middle ones the finite one; None where it is infinite: most pictures are equal."""
    median = float(np.median(values))
    median = median if np.isfinite(median) else middle(values)
    return round(median, 2) if np.isfinite(median) else None


def picture_row(found: A.Painted, capture: Any) -> dict[str, Any]:
    """The figures of one attack, and what the same pictures are beside other ones than those they are meant to be."""
    said = A.report_pictures(found, capture)
    table, other = said.pictures, A.report_pictures(rolled(found), capture).pictures
    row = said.row()
    return {
        "pictures": len(table), "exact": round(float(table.exact.mean()), 4), "psnr": decibels(table.psnr),
        "ssim": near(table.ssim), "correlation": near(table.correlation), "other_psnr": decibels(other.psnr),
        "other_ssim": near(other.ssim), "fit_seconds": round(said.cost.fit_seconds, 3),
        "seconds_per_picture": round(float(str(row["seconds_per_picture"])), 4),
    }  # fmt: skip


def prompt_row(found: Reconstruction, capture: Any) -> dict[str, Any]:
    """Prompts that are right to the last token, and tokens that are."""
    exact = A.prompts_exact(found, capture)
    interval = binomtest(sum(exact), len(exact)).proportion_ci(method="wilson")
    other = rolled(found)
    return {
        "prompts": len(exact), "exact": float(np.mean(exact)), "low": round(interval.low, 4),
        "high": round(interval.high, 4), "tokens": round(report(found, capture).accuracy(), 4),
        "other_exact": float(np.mean(A.prompts_exact(other, capture))),
        "other_tokens": round(report(other, capture).accuracy(), 4),
        "seconds": round(found.cost.read_seconds / len(exact), 4),
    }  # fmt: skip


def measure(args: Any, kept: dict[str, Any], save: Any) -> None:
    """Every row that is not in `kept` yet."""
    pipe = lk.load("emoji-ldm")
    pictures, prompts = kept["pictures"], kept["prompts"]
    ways: list[tuple[str, int | None, str]] = [(mode, None, spec) for mode, spec in DENOISER]
    ways += [("per_step", depth, spec) for depth, spec in INSIDE]
    for mode, depth, spec in tqdm(ways[3:4] + ways[8:9] if args.quick else ways, desc="ways"):
        own, theirs = own_and_theirs(2 if args.quick else MANY if depth is None else FEW)
        named = {"mode": mode, "depth": depth, "codec": spec}
        done = {(r["observer"], r["attack"], r["options"]) for r in pictures if named.items() <= r.items()}
        todo = []
        for observer, attack in attackers(mode, depth, spec):
            options = ", ".join(f"{k}={v}" for k, v in changed(attack).items() if k != "guidance")
            if (observer, type(attack).__name__, options) not in done:
                todo.append((observer, attack, options))
        reads_prompts = not any(named.items() <= r.items() for r in prompts)
        if not todo and not reads_prompts:
            continue
        cut: dict[str, Any] = dict(mode=mode) if depth is None else dict(at="blocks", head=depth, tail=depth)
        split = lk.split(pipe, codec=spec, **cut)
        capture = A.record_picture(split, theirs, SEED, steps=STEPS, guidance_scale=SCALE)
        for observer, attack, options in todo:
            know: Knowledge = A.picture_knowledge(pipe, text=own)  # a new one each: every row pays for its own fit
            view = capture.view(observer)
            row = picture_row(attack.fit(view, know).reconstruct(view), capture)
            pictures.append({**named, "observer": observer, "attack": type(attack).__name__, "options": options, **row})
            save()
        if reads_prompts:
            view = capture.view("eavesdrop_up")
            found = A.PromptMatch().fit(view, A.picture_knowledge(pipe, text=own)).reconstruct(view)
            prompts.append({**named, **prompt_row(found, capture)})
            save()


def where(row: dict[str, Any]) -> list[str]:
    """The cells that say which cut, mode and codec a row is of."""
    depth = row["depth"]
    cut = "denoiser" if depth is None else f"inside, {depth} + {depth} blocks local"
    return [cut, row["mode"], f"`{row['codec']}`"]


def level(value: float | None) -> str:
    """Decibels as a cell."""
    return "equal" if value is None else f"{value:.1f}"


def spread(found: dict[str, float]) -> str:
    """A mean and its interval as a cell."""
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    cells = [
        [*where(x), f"{x['attack']}({x['options']})" if x["options"] else x["attack"], f"`{x['observer']}`",
         f"{x['exact']:.0%}", level(x["psnr"]), spread(x["ssim"]), level(x["other_psnr"]),
         f"{x['other_ssim']['mean']:.3f}", f"{x['fit_seconds']:.1f}", f"{x['seconds_per_picture']:.2f}"]
        for x in r["pictures"]
    ]  # fmt: skip
    head = ["cut", "mode", "codec", "attack", "observer", "equal pictures", "PSNR (dB)", "SSIM",
            "of another: PSNR (dB)", "SSIM", "fit (CPU-s)", "CPU-s a picture"]  # fmt: skip
    read = [
        [*where(x), f"{x['exact']:.0%} ({x['low']:.0%} to {x['high']:.0%})", f"{x['tokens']:.1%}",
         f"{x['other_exact']:.0%}", f"{x['other_tokens']:.1%}", f"{x['seconds']:.2f}"]
        for x in r["prompts"]
    ]  # fmt: skip
    names = ["cut", "mode", "codec", "whole prompts", "tokens", "of another: prompts", "tokens", "CPU-s a prompt"]
    count = {bool(x["depth"] is not None): x["pictures"] for x in r["pictures"]}
    said = (
        f"`emoji-ldm`, {count.get(False, 0)} pictures with the cut at the denoiser and {count.get(True, 0)} inside, "
        f"{STEPS} DDIM steps, guidance scale {SCALE:g}; attackers have the public pipeline, {OWN} prompts of their "
        "own, and know codec and cut. "
        "`cloud` sees what `eavesdrop_both` sees. Who sees what comes down only is told the scale; all others find it. "
        "PSNR: the median over pictures; SSIM: the mean, with a 95 % bootstrap interval over pictures. "
        "*Of another*: the same attack's pictures beside those of the next prompt, the control of a wrong picture; "
        "`MeanPicture` looks at nothing on the wire. Every row pays for its own fit. `eavesdrop_up` was not measured "
        "behind two blocks, where each of its trials runs the whole denoiser."
    )
    prompts = (
        "The prompt out of the text embeddings, `PromptMatch`, observer `eavesdrop_up`, and so whoever sees what goes "
        "up; 95 % Wilson interval. *Of another*: beside the next prompt; padding does not count."
    )
    return f"{said}\n\n{common.table(head, cells)}\n\n{prompts}\n\n{common.table(names, read)}"


def main() -> None:
    """Measure, save after every row, report."""
    parser = common.options(__doc__)
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    args = parser.parse_args()
    common.one_thread()
    path = common.RESULTS / f"picture_attacks{'-quick' if args.quick else ''}.json"
    kept: dict[str, Any] = {"pictures": [], "prompts": []}
    if path.exists() and not (args.fresh or args.quick):
        kept = json.loads(path.read_text("utf-8"))

    def save() -> None:
        common.RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")

    measure(args, kept, save)
    result = {name: kept[name] for name in ("pictures", "prompts")}
    common.finish("picture_attacks", args, result, render(result))


if __name__ == "__main__":
    main()
