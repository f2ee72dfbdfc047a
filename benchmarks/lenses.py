"""What the downlink says of the reply, by length of the tail; and, of what goes up, attacks that take their time.

Prompts are the kit's own (`lsplit_kit.data.prompts`), as a user's message under the chat template, cut to 32 tokens,
with the model's greedy reply; lenses are fitted to the text that every Python carries. The template is not counted.
`--parts`: measure only these, and keep the others as they are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import common
import torch
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks import (
    Knowledge,
    LogitLens,
    PriorOnly,
    PrototypeLDA,
    RunTail,
    SequenceInverter,
    SoftEmbedding,
    TunedLens,
    VocabMatch,
    record,
    report,
)
from lsplit_kit.attacks.study import windows
from lsplit_kit.attacks.tuned_lens import run_through
from lsplit_kit.data import prompts, topics
from lsplit_kit.measure.inversion import leak_of
from lsplit_kit.measure.resample import mean_by_document

TAILS, DEPTHS, COUNT, FEW, LONGEST, REPLY = (1, 2, 5, 10, 20), (1, 5), 24, 4, 32, 8
MANY = 60  # prompts of the downlink: ten of each domain
INVERTED, PARTS = (5,), ("down", "up", "inverter")
PAIRS = (20_000, 60_000, 100_000)  # positions that a tuned lens may learn from
GOAL = 0.97  # of the model's likeliest tokens among the ten best of the tuned lens, one layer behind the body


def replies(model: Any, know: Knowledge, tail: int, texts: list[str]) -> list[dict[str, Any]]:
    """What each lens makes of the downlink in front of a tail of this many layers."""
    capture = record(lk.split(model, head=1, tail=tail), texts, longest=LONGEST, new_tokens=REPLY)
    view, rows = capture.view("eavesdrop_down"), []
    for attack in (LogitLens(), TunedLens(), RunTail()):
        found = attack.fit(view, know).reconstruct(view)
        said, same = report(found, capture), report(found, capture, model)
        among = mean_by_document(same.counted["rank"].between(1, 10), same.counted.conversation)
        rows.append({"attack": said.attack, "tail": tail, "positions": among.tokens, "best": same.accuracy(),
                     "top10": among.value, "low": among.interval.low, "high": among.interval.high,
                     "reply": said.accuracy("reply"), "fit_seconds": said.cost.fit_seconds,
                     "seconds_per_token": said.row()["seconds_per_token"]})  # fmt: skip
    return rows


@torch.inference_mode()
def held_out(model: Any, know: Knowledge) -> list[dict[str, Any]]:
    """How a tuned lens in front of one layer does on passages of the attacker's own text that it was not fitted to."""
    view = record(lk.split(model, head=1, tail=1), ["x"]).view("eavesdrop_down")
    ids, rows = windows(know)[1], []
    out = model(ids, use_cache=False, output_hidden_states=True)
    likeliest, here = out.logits[:, 1:].argmax(-1).flatten(), out.hidden_states[-2][:, 1:].flatten(0, 1)
    for pairs in tqdm(PAIRS, desc="pairs"):
        lens = TunedLens(pairs=pairs).fit(view, know)
        hit = torch.cat([lens.beliefs(part).topk(10).indices for part in here.split(256)]) == likeliest[:, None]
        rows.append({"pairs": pairs, "positions": len(hit), "best": float(hit[:, 0].float().mean()),
                     "top10": float(hit.any(-1).float().mean())})  # fmt: skip
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


def inverter(model: Any, know: Knowledge, depth: int, texts: list[str]) -> list[dict[str, Any]]:
    """Prototypes by themselves, and with a recurrent net that clears vectors of the tokens before, on all prompts."""
    capture = record(lk.split(model, head=depth, tail=0), texts, longest=LONGEST)
    view, rows = capture.view("eavesdrop_up"), []
    prior = report(PriorOnly().fit(view, know).reconstruct(view), capture)
    for attack in (PrototypeLDA(), SequenceInverter()):
        said = report(attack.fit(view, know).reconstruct(view), capture)
        rows.append({**{name: said.row()[name] for name in ("attack", "tokens", "accuracy", "top10", "fit_seconds",
                                                            "seconds_per_token")},
                     "depth": depth, "bits": leak_of(said, prior).bits})  # fmt: skip
    know.shelf.clear()
    return rows


def measure(quick: bool, parts: Sequence[str]) -> dict[str, Any]:
    """The tables that are asked for."""
    model, tok = lk.load("smollm2")
    know = Knowledge(model, tok, text=[text for _, text in topics("all")])
    tails, depths, count = (TAILS[:1], DEPTHS[:1], FEW) if quick else (TAILS, DEPTHS, COUNT)
    texts, found = [prompt.text for prompt in prompts(count=count)], {"prompts": count}
    if "down" in parts:
        many = texts if quick else [prompt.text for prompt in prompts(count=MANY)]
        found |= {"many": len(many), **downlink(model, know, tails, many, quick)}
    if "up" in parts:
        found["up"] = [row for d in tqdm(depths, desc="depths") for row in contrast(model, know, d, texts[:FEW])]
    if "inverter" in parts:
        found["inverter"] = [row for d in tqdm(INVERTED, desc="depths") for row in inverter(model, know, d, texts)]
    return found


def downlink(model: Any, know: Knowledge, tails: Sequence[int], texts: list[str], quick: bool) -> dict[str, Any]:
    """Lenses in front of every tail, and how many positions to fit them to."""
    begun, cuts = time.process_time(), [model.config.num_hidden_layers - tail for tail in tails]
    run_through(know, cuts, max(PAIRS) if not quick else TunedLens().pairs)
    spent = time.process_time() - begun
    down = [row for tail in tqdm(tails, desc="tails") for row in replies(model, know, tail, texts)]
    held = [] if quick else held_out(model, know)
    know.shelf.clear()
    return {"down": down, "held": held, "run_seconds": spent}


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    down = [
        [
            x["attack"],
            x["tail"],
            f"{x['best']:.1%}",
            f"{x['top10']:.1%} ({x['low']:.1%} to {x['high']:.1%})",
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
        [
            "attack",
            "layers behind the body",
            "model's likeliest token",
            "among ten best (95 %)",
            "reply",
            "fit (CPU-s)",
        ],
        down,
    )
    soft = common.table(["attack", "layers before the cut", "tokens", "among ten best", "CPU-s a token"], up)
    slow = common.table(
        ["attack", "layers before the cut", "tokens", "among ten best", "bits a token", "fit (CPU-s)", "CPU-s a token"],
        [[x["attack"], x["depth"], f"{x['accuracy']:.1%}", f"{x['top10']:.1%}", f"{x['bits']:.2f}",
          f"{x['fit_seconds']:.0f}", f"{x['seconds_per_token']:.3f}"] for x in r.get("inverter", ())],
    )  # fmt: skip
    if "inverter" in r:
        slow = (
            f"\n\nAll {r['prompts']} prompts, {r['inverter'][0]['tokens']} tokens, observer `eavesdrop_up`. The "
            "inverter finds the vectors that prototypes are made of there already; its own fitting comes on top:"
            f"\n\n{slow}"
        )
    else:
        slow = ""
    met = next(x for x in r["down"] if (x["attack"], x["tail"]) == ("TunedLens", 1))
    goal = common.table(
        ["goal", "at least", "measured", "met by what was measured", "by the whole interval"],
        [["tuned lens, one layer behind the body, among ten best", f"{GOAL:.0%}", f"{met['top10']:.1%}",
          "yes" if met["top10"] >= GOAL else "no", "yes" if met["low"] >= GOAL else "no"]],
    )  # fmt: skip
    held = common.table(
        ["positions learnt from", "model's likeliest token", "among ten best"],
        [[f"{x['pairs']:,}", f"{x['best']:.1%}", f"{x['top10']:.1%}"] for x in r.get("held", ())],
    )
    chosen = (
        f"How many positions the tuned lens learns from ({TunedLens().pairs:,}) was chosen on passages of the same "
        f"text that it was not fitted to, one layer behind the body, {r['held'][0]['positions']:,} positions; the "
        f"prompts above had no part in it:\n\n{held}\n\n" if r.get("held") else ""
    )  # fmt: skip
    shared = (
        f"Tuned lenses share one run of the model on {max(PAIRS):,} tokens of the attacker's text, "
        f"{r['run_seconds']:.0f} CPU-s that no row has." if "run_seconds" in r else ""
    )  # fmt: skip
    return (
        f"`smollm2`, {r['many']} prompts of at most {LONGEST} tokens and {REPLY} tokens of each greedy reply, "
        f"{r['down'][0]['positions']:,} positions, observer `eavesdrop_down`. Likeliest token: what the unsplit model "
        f"would say, at the positions of prompt and reply; intervals draw prompts again. {shared}\n\n"
        f"{lenses}\n\n{goal}\n\n{chosen}"
        f"{FEW} of these prompts, {r['up'][0]['tokens']} tokens, observer `eavesdrop_up`:\n\n{soft}{slow}"
    )


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    args = parser.parse_args()
    common.one_thread()
    path = common.RESULTS / f"lenses{'-quick' if args.quick else ''}.json"
    kept = json.loads(path.read_text("utf-8")) if path.exists() and set(args.parts) != set(PARTS) else {}
    kept = {name: kept[name] for name in ("down", "many", "held", "run_seconds", "up", "inverter") if name in kept}
    result = {**kept, **measure(args.quick, args.parts)}
    common.finish("lenses", args, result, render(result))


if __name__ == "__main__":
    main()
