"""What the downlink says of the reply: lenses and the tail itself by length of the tail; optimising beside matching.

Prompts are the kit's own (`lsplit_kit.data.prompts`), as a user's message under the chat template, cut to 32 tokens,
with the model's greedy reply; lenses are fitted to the text that every Python carries. The template is not counted.
"""

from __future__ import annotations

from typing import Any

import common
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks import (
    Knowledge,
    LogitLens,
    RunTail,
    SoftEmbedding,
    TunedLens,
    VocabMatch,
    agreement,
    record,
    report,
)
from lsplit_kit.data import prompts, topics

TAILS, DEPTHS, COUNT, FEW, LONGEST, REPLY = (1, 2, 5, 10, 20), (1, 5), 24, 4, 32, 8


def replies(model: Any, know: Knowledge, tail: int, texts: list[str]) -> list[dict[str, Any]]:
    """What each lens makes of the downlink in front of a tail of this many layers."""
    capture = record(lk.split(model, head=1, tail=tail), texts, longest=LONGEST, new_tokens=REPLY)
    view, rows = capture.view("eavesdrop_down"), []
    for attack in (LogitLens(), TunedLens(), RunTail()):
        found = attack.fit(view, know).reconstruct(view)
        said, same = report(found, capture), agreement(found, capture, model)
        rows.append({"attack": said.attack, "tail": tail, "positions": same.positions, "best": same.best,
                     "top10": same.top10, "reply": said.accuracy("reply"), "fit_seconds": said.cost.fit_seconds,
                     "seconds_per_token": said.row()["seconds_per_token"]})  # fmt: skip
    know.shelf.clear()  # of no use at another cut
    return rows


def contrast(model: Any, know: Knowledge, depth: int, texts: list[str]) -> list[dict[str, Any]]:
    """Optimised embeddings and matched tokens behind this many layers, on the same prompts."""
    capture = record(lk.split(model, head=depth, tail=1), texts, longest=LONGEST)
    view, rows = capture.view("eavesdrop_up"), []
    for attack in (SoftEmbedding(), VocabMatch()):
        said = report(attack.fit(view, know).reconstruct(view), capture).row()
        kept = ("attack", "tokens", "accuracy", "top10", "fit_seconds", "seconds_per_token")
        rows.append({"depth": depth, **{name: said[name] for name in kept}})
    know.shelf.clear()
    return rows


def measure(quick: bool) -> dict[str, Any]:
    """Both tables."""
    model, tok = lk.load("smollm2")
    know = Knowledge(model, tok, text=[text for _, text in topics("all")])
    tails, depths, count = (TAILS[:1], DEPTHS[:1], FEW) if quick else (TAILS, DEPTHS, COUNT)
    texts = [prompt.text for prompt in prompts(count=count)]
    down = [row for tail in tqdm(tails, desc="tails") for row in replies(model, know, tail, texts)]
    up = [row for depth in tqdm(depths, desc="depths") for row in contrast(model, know, depth, texts[:FEW])]
    return {"down": down, "up": up, "prompts": count}


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    down = [
        [
            x["attack"],
            x["tail"],
            f"{x['best']:.1%}",
            f"{x['top10']:.1%}",
            f"{x['reply']:.1%}",
            f"{x['fit_seconds']:.0f}",
        ]
        for x in r["down"]
    ]
    up = [
        [x["attack"], x["depth"], f"{x['accuracy']:.1%}", f"{x['top10']:.1%}", f"{x['seconds_per_token']:.3f}"]
        for x in r["up"]
    ]
    lenses = common.table(
        ["attack", "layers behind the body", "model's likeliest token", "among ten best", "reply", "fit (CPU-s)"], down
    )
    soft = common.table(["attack", "layers before the cut", "tokens", "among ten best", "CPU-s a token"], up)
    return (
        f"`smollm2`, {r['prompts']} prompts of at most {LONGEST} tokens and {REPLY} tokens of each greedy reply, "
        f"{r['down'][0]['positions']:,} positions, observer `eavesdrop_down`. Likeliest token: what the unsplit model "
        f"would say, at the positions of prompt and reply.\n\n{lenses}\n\n"
        f"{FEW} of these prompts, {r['up'][0]['tokens']} tokens, observer `eavesdrop_up`:\n\n{soft}"
    )


def main() -> None:
    """Measure and report."""
    args = common.options(__doc__).parse_args()
    common.one_thread()
    result = measure(args.quick)
    common.finish("lenses", args, result, render(result))


if __name__ == "__main__":
    main()
