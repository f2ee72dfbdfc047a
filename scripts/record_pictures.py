"""Make the recordings of pictures that the kit ships: captures, their truths, and what each attack paints of them.

python scripts/record_pictures.py [--only emoji-ldm.lockstep.int8 ...]

Drawn by `emoji-ldm`; the attackers have the public pipeline, and prompts of their own, others than the learner's. All
but the CPU seconds comes out the same on the same machine and versions. A minute or two.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks.attack import Cost
from lsplit_kit.attacks.pictures import (
    FittedTelescope,
    HiddenInversion,
    MeanPicture,
    PictureAttack,
    PromptMatch,
    Strip,
    Telescope,
    paint,
    picture_knowledge,
    prompts_exact,
    record_picture,
)
from lsplit_kit.attacks.pictures.recorded import PAINTERS, ReadPrompt, dumped_pictures, may_paint
from lsplit_kit.data.captures import named_picture
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.wire.capture import Capture
from lsplit_kit.wire.view import OBSERVERS

FOLDER = Path(__file__).resolve().parent.parent / "lsplit_kit" / "data" / "captures" / "pictures"
MODEL, STEPS, SCALE, SEED, CODEC = "emoji-ldm", 8, 3.0, 3, "int8"
PROMPTS = ["a red apple", "octopus"]
OWN = ["green heart", "a rocket", "crab", "a dog", "pizza", "tulip", "a robot", "tiger face", "ball", "a zebra", "moon",
       "cake"]  # fmt: skip
WAYS = (("lockstep", None), ("per_step", None), ("per_step", 1), ("per_step", 2))
SHIPPED = (WAYS[0], WAYS[2])  # captures; of the others only what was painted


def attack_of(name: str) -> PictureAttack:
    """An attack with the settings of the recordings."""
    if name == "HiddenInversion":
        return HiddenInversion(calls=STEPS, iterations=100)
    if name in ("FittedTelescope", "MeanPicture"):
        cls = FittedTelescope if name == "FittedTelescope" else MeanPicture
        return cls(pictures=len(OWN), guidance=SCALE)
    return Telescope(guidance=SCALE) if name == "Telescope" else PAINTERS[name]()


def painted(capture: Capture, depth: int | None, knowledge: Any) -> tuple[dict[str, Any], dict[str, Cost]]:
    """Strips of all pictures by attack, each by the first observer that may run it, and costs."""
    strips: dict[str, list[Strip]] = {}
    costs = {}
    for name in PAINTERS:
        for observer in OBSERVERS:
            try:
                may_paint(name, observer, depth)
            except UnsupportedOption:
                continue
            attack = attack_of(name)
            strips[name] = [paint(capture, observer, knowledge.but(), n, attack=attack) for n in range(len(PROMPTS))]
            costs[name] = attack.cost_
            break
    return strips, costs


def main() -> None:
    """Record every way, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of recordings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = lk.load(MODEL)
    knowledge = picture_knowledge(pipe, text=OWN)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for mode, depth in tqdm(WAYS, desc="ways"):
        path = FOLDER / f"{named_picture(MODEL, mode, depth, CODEC)}.lsplit"
        if args.only and path.stem not in args.only:
            continue
        cut: dict[str, Any] = dict(mode=mode) if depth is None else dict(at="blocks", head=depth, tail=depth)
        split = lk.split(pipe, codec=CODEC, **cut)
        capture = record_picture(split, PROMPTS, SEED, steps=STEPS, guidance_scale=SCALE)
        if (mode, depth) in SHIPPED:
            capture.save(path)
        view = capture.view("eavesdrop_up")
        found = PromptMatch().fit(view, knowledge).reconstruct(view)
        seconds = round(found.cost.read_seconds / len(PROMPTS), 3)
        rows = zip(PROMPTS, found.texts(pipe.tokenizer), prompts_exact(found, capture), strict=True)
        read = [ReadPrompt(*row, seconds) for row in rows]
        path.with_suffix(".json").write_text(dumped_pictures(*painted(capture, depth, knowledge), read), "utf-8")


if __name__ == "__main__":
    main()
