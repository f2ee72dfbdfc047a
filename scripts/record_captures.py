"""Make the recordings that the kit ships: captures, their truths, and what the ladder of attacks reads in them.

python scripts/record_captures.py [--depths 1 5 15] [--codecs int8:token ...]

The prompts are the first of `data.prompts()`, as a user's message, greedy replies; attackers are fitted to the topics
of Python. All but the CPU seconds comes out the same on the same machine and versions. Minutes.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks import Knowledge, record, report
from lsplit_kit.attacks.pieces import piece
from lsplit_kit.attacks.recorded import OBSERVER, dumped
from lsplit_kit.attacks.threats import LADDER, THREATS, allowed, attack_of, knowledge_of
from lsplit_kit.data import prompts, topics
from lsplit_kit.data.captures import named
from lsplit_kit.errors import NeedsKnowledge
from lsplit_kit.wire.capture import Capture

FOLDER = Path(__file__).resolve().parent.parent / "lsplit_kit" / "data" / "captures"
MODEL, DEPTHS, CODECS, DOWN = "smollm2", (1, 5, 15), ("fp32", "int8:token", "auto:text"), "int8:token"
COUNT, LONGEST, REPLY = 6, 20, 6
BARE = ("fp32",)  # four times the bytes of int8: only the reports are shipped


def read(capture: Capture, knows: dict[str, Knowledge]) -> list[tuple[str, object]]:
    """(knowledge, report) of every attack that a threat model allows."""
    view, found = capture.view(OBSERVER), []
    for threat, knowledge in knows.items():
        for name in LADDER:
            try:
                allowed(name, OBSERVER, knowledge)
            except NeedsKnowledge:
                continue
            attack = attack_of(name).fit(view, knowledge)
            found.append((threat, report(attack.reconstruct(view), capture)))
    return found


def main() -> None:
    """Record every depth and codec asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--codecs", nargs="*", default=CODECS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = lk.load(MODEL)
    texts, own = [p.text for p in prompts(count=COUNT)], [text for _, text in topics("all")]
    FOLDER.mkdir(exist_ok=True)
    for depth in tqdm(args.depths, desc="depths"):
        knows = {threat: knowledge_of(threat, model, tok, own) for threat in THREATS}
        for codec in args.codecs:
            lm = lk.split(model, head=depth, tail=0, codec=(codec, DOWN))
            capture = record(lm, texts, longest=LONGEST, new_tokens=REPLY)
            path = FOLDER / f"{named(MODEL, depth, codec)}.lsplit"
            if codec not in BARE:
                capture.save(path)
            path.with_suffix(".json").write_text(dumped(read(capture, knows), partial(piece, tok)), "utf-8")


if __name__ == "__main__":
    main()
