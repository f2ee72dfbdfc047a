"""Make the recordings that the kit ships: captures, their truths, and what the ladder of attacks reads in them.

python scripts/record_captures.py [--depths 1 5 15] [--tails 1 5 15] [--codecs int8:token ...] [--fresh]

The prompts are the first of `data.prompts()`, as a user's message, greedy replies; attackers are fitted to the topics
of Python. A recording is completed by the attacks that it lacks; --fresh makes it anew. All but the CPU seconds comes
out the same on the same machine and versions. Minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks import Knowledge, Report, TunedLens, record, report
from lsplit_kit.attacks.pieces import piece
from lsplit_kit.attacks.recorded import OBSERVER, dumped, recorded
from lsplit_kit.attacks.threats import LADDERS, THREATS, allowed, attack_of, knowledge_of
from lsplit_kit.attacks.tuned_lens import run_through
from lsplit_kit.data import prompts, topics
from lsplit_kit.data.captures import named
from lsplit_kit.errors import NeedsKnowledge
from lsplit_kit.wire.capture import Capture

FOLDER = Path(__file__).resolve().parent.parent / "lsplit_kit" / "data" / "captures"
MODEL, DEPTHS, CODECS, DOWN = "smollm2", (1, 5, 15), ("fp32", "int8:token", "auto:text"), "int8:token"
COUNT, LONGEST, REPLY = 6, 20, 6
ASKED = ("int8:token",)  # the codecs with which what queries read is recorded
BARE = ("fp32",)  # four times the bytes of int8: only the reports are shipped
SHIPPED = (5, "auto:text")  # the one tail and codec whose capture is shipped, of those attacked downward


def runs(direction: str, knows: dict[str, Knowledge]) -> Iterator[tuple[str, str]]:
    """(attack, threat) of every attack on a direction that a threat model allows; a guess is the same for all."""
    for threat, knowledge in knows.items():
        for name in LADDERS[direction]:
            if name == "PriorOnly" and threat != "public":
                continue
            try:
                allowed(name, OBSERVER[direction], knowledge, direction)
            except NeedsKnowledge:
                continue
            yield name, threat


def counted(said: Report) -> Report:
    """A report without the template, which is half of what a model says."""
    return replace(said, tokens=said.counted.reset_index(drop=True))


def upward(path: Path, capture: Capture, knows: dict[str, Knowledge], tok: Any, fresh: bool) -> None:
    """What the ladder reads in what went up; reports that are there already stay."""
    view, found = capture.view(OBSERVER["up"]), {}
    if path.exists() and not fresh:
        found = dict(recorded(path.stem).reports)
    order = list(runs("up", knows))
    for name, threat in order:
        if (name, threat) not in found:
            attack = attack_of(name).fit(view, knows[threat])
            found[name, threat] = report(attack.reconstruct(view), capture)
    path.write_text(dumped([(threat, found[name, threat]) for name, threat in order], partial(piece, tok)), "utf-8")


def downward(path: Path, capture: Capture, knows: dict[str, Knowledge], tok: Any, model: Any, cuts: list[int]) -> None:
    """What the ladder reads in what came down, beside what the unsplit model would say, and beside the text."""
    view, said, texts = capture.view(OBSERVER["down"]), [], []
    run_through(knows["public"], cuts, TunedLens().pairs)  # one run of the texts does for the lenses of all cuts
    for name, threat in runs("down", knows):
        found = attack_of(name, "down").fit(view, knows[threat]).reconstruct(view)
        said.append((threat, counted(report(found, capture, model))))
        texts.append(counted(report(found, capture)))
    path.write_text(dumped(said, partial(piece, tok), texts), "utf-8")


def main() -> None:
    """Record every depth, tail and codec asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--tails", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--codecs", nargs="*", default=CODECS)
    parser.add_argument("--fresh", action="store_true", help="forget what is recorded")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = lk.load(MODEL)
    texts, own = [p.text for p in prompts(count=COUNT)], [text for _, text in topics("all")]
    FOLDER.mkdir(exist_ok=True)
    taken = partial(record, prompts=texts, longest=LONGEST, new_tokens=REPLY)
    for depth in tqdm(args.depths, desc="depths"):
        knows = {threat: knowledge_of(threat, model, tok, own, depth) for threat in THREATS}
        for codec in args.codecs:
            path = FOLDER / f"{named(MODEL, depth, codec)}.json"
            capture = taken(lk.split(model, head=depth, tail=0, codec=(codec, DOWN)))
            if codec not in BARE and (args.fresh or not path.exists()):
                capture.save(path.with_suffix(".lsplit"))
            granted = {t: k for t, k in knows.items() if t != "queries" or codec in ASKED}
            upward(path, capture, granted, tok, args.fresh)
    knows = {threat: knowledge_of(threat, model, tok, own) for threat in THREATS}
    for tail in tqdm(args.tails, desc="tails"):
        for codec in args.codecs:
            path = FOLDER / f"{named(MODEL, tail, codec, 'down')}.json"
            if path.exists() and not args.fresh:
                continue
            capture = taken(lk.split(model, head=0, tail=tail, codec=("fp32", codec)))
            if (tail, codec) == SHIPPED:
                capture.only(OBSERVER["down"]).save(path.with_suffix(".lsplit"))
            downward(path, capture, knows, tok, model, [model.config.num_hidden_layers - t for t in args.tails])


if __name__ == "__main__":
    main()
