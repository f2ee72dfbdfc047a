"""How many bits a hidden value needs: codecs on a language model's hidden vectors, against the unsplit model.

Held-back texts of four kinds at the usual cut, both ways; and codec by depth. A chat template's own message, the same
in every dialogue, is sent and not judged. What comes down after layer k is the same tensor as what goes up after it.
Beside them: how many greedy tokens are the unsplit model's, and the texts that the calibrations were made of.
"""

from __future__ import annotations

import json
import math
from statistics import median
from typing import Any

import common
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.measure import greedy_agreement, text_quality
from lsplit_kit.measure.corpus import DOMAINS, shared, windows

DEPTHS = (1, 2, 5, 10, 15, 20, 29)
BOTH = ("auto:text", "auto:text-hq", "klt:step=0.4+ans", "int8:token", "int8:token+hadamard=64",
        "int4:group=64+hadamard=64", "int4:token+outliers=16")  # fmt: skip
DEEP = ("fp16", "fp8:e4m3", "fp8:e5m2", "int8", "int8:token", "int8:token+hadamard=64", "int6:group=64+hadamard=64",
        "int4:group=64", "int4:group=64+hadamard=64", "nf4:group=64", "int4:token+outliers=16", "klt:step=0.135+ans",
        "klt:step=0.21+ans", "klt:step=0.4+ans")  # fmt: skip
GOALS = (
    ("auto:text", ("prose", "code"), 4.2, 1.01, 0.95), ("auto:text", ("chat", "languages"), 5.0, 1.01, 0.95),
    ("auto:text-hq", DOMAINS, 5.2, 1.002, 0.97),
)  # fmt: skip
PARTS = ("cut", "greedy", "seen", "depths")
GREEDY, PROMPT = ("auto:text", "auto:text-hq"), 32  # tokens that are read before the greedy ones
SEEN = 2  # windows of the texts that a calibration was made of


def greedy(model: Any, texts: dict[str, list], many: int, new: int) -> list[dict[str, Any]]:
    """One row a codec and kind of text: for each prompt, how many greedy tokens are the unsplit model's."""
    rows = []
    for domain, pieces in tqdm(texts.items(), desc="greedy"):
        after = shared(pieces) if domain == "chat" else 0
        prompts = [piece[None, : after + PROMPT] for piece in pieces[:many]]
        for spec in GREEDY:
            same = greedy_agreement(lk.split(model, codec=spec), model, prompts, new)
            rows.append({"codec": spec, "text": domain, "of": new, "same": same})
    return rows


def seen(model: Any, tokenizer: Any, quick: bool) -> list[dict[str, Any]]:
    """Rows of auto:text on prose and code that its calibrations were made of, windows evenly apart."""
    rows = []
    for domain in ("prose", "code"):
        every = windows(tokenizer, domain, "calibrate")
        pieces = every[:: max(1, len(every) // SEEN)][: 1 if quick else SEEN]
        rows += [
            {"text": domain, **row}
            for row in measured({"auto:text": lk.split(model, codec="auto:text")}, model, pieces, 0)
        ]
    return rows


def measured(models: dict[str, Any], model: Any, pieces: list, after: int) -> list[dict[str, Any]]:
    """One row a codec: payload bits a value, and the distance from the unsplit model."""
    taps = {spec: lk.tap(lm) for spec, lm in models.items()}
    for tap in taps.values():
        tap.__enter__()
    table = text_quality(models, model, pieces, after=after)
    rows = []
    for spec, tap in taps.items():
        tap.__exit__(None, None, None)
        lossy = [c for c in tap.crossings if c.codec and c.codec != "fp32"]
        values = sum(c.tensor for c in lossy) / 4
        row = table.loc[spec]
        rows.append({
            "codec": spec, "bits": round(8 * sum(c.payload for c in lossy) / values, 3), "tokens": int(row["tokens"]),
            "ratio": round(row["ratio"], 4), "kl": round(row["kl"], 5), "top1": round(row["top1"], 4),
        })  # fmt: skip
    return rows


def limits(r: dict[str, Any]) -> str:
    """A sentence for each kind of text on which auto:text-hq keeps too few top tokens: what it would take."""
    least, said = next(top1 for spec, _, _, _, top1 in GOALS if spec == "auto:text-hq"), []
    rows = {(x["codec"], x["text"]): x for x in r["both"]}
    for domain in DOMAINS:
        coarse, fine = rows["auto:text", domain], rows["auto:text-hq", domain]
        missing = least - fine["top1"]
        if missing > 0:
            slope = (fine["bits"] - coarse["bits"]) / (fine["top1"] - coarse["top1"])
            error = math.sqrt(fine["top1"] * (1 - fine["top1"]) / fine["tokens"])
            said.append(
                f"`auto:text-hq` is {100 * missing:.1f} points short of {least:.0%} on {domain} (standard error "
                f"{100 * error:.1f}): by the line through `auto:text` and it, which is no measurement, that takes "
                f"{fine['bits'] + missing * slope:.2f} bits."
            )
    return " ".join(said)


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = ["codec", "text", "bits a value", "perplexity ratio", "KL (nats)", "same top token", "tokens"]
    told = {(g["codec"], g["text"]): f"{median(g['same']):g} ({min(g['same'])})" for g in r["greedy"]}
    of, prompts = {g["of"] for g in r["greedy"]}, {len(g["same"]) for g in r["greedy"]}
    both, again = (
        [[f"`{x['codec']}`", x["text"], x["bits"], x["ratio"], x["kl"], f"{x['top1']:.1%}", x["tokens"]] for x in rows]
        for rows in (r["both"], r["seen"])
    )
    both = [[*row, told.get((x["codec"], x["text"]), "")] for row, x in zip(both, r["both"], strict=True)]
    goal = ["codec", "text", "goal", "bits a value", "perplexity ratio", "same top token", "met"]
    goals = [
        [
            f"`{g['codec']}`",
            g["text"],
            g["goal"],
            g["bits"],
            g["ratio"],
            f"{g['top1']:.1%}",
            "yes" if g["met"] else "no",
        ]
        for g in r["goals"]
    ]
    specs = list(dict.fromkeys(x["codec"] for x in r["depths"]))
    depths = sorted({x["depth"] for x in r["depths"]})
    cell = {(x["codec"], x["depth"]): f"{x['bits']:.2f} / {x['ratio']:.3f} / {x['top1']:.0%}" for x in r["depths"]}
    deep = [[f"`{spec}`", *(cell.get((spec, depth), "") for depth in depths)] for spec in specs]
    return "\n\n".join((
        f"`{r['model']}`, head 2 / tail 2, both directions, real payload bytes, texts that no calibration saw.",
        common.table(goal, goals), *filter(None, [limits(r)]),
        f"*Greedy* is how many of {max(of)} greedy tokens come before the first that is not the unsplit model's: the "
        f"median (the least) of {max(prompts)} prompts of {PROMPT} tokens a kind of text.",
        common.table([*head, "greedy"], both),
        "The same on prose and code that the calibrations were made of.", common.table(head, again),
        "One crossing after so many layers, held-back prose, code: bits a value / perplexity ratio / same top token.",
        common.table(["codec", *map(str, depths)], deep),
    ))  # fmt: skip


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument(
        "--part", nargs="+", choices=PARTS, default=PARTS, help="measure these, keep the others as on record"
    )
    parser.add_argument("--prompts", type=int, default=4, help="of each kind of text, for greedy tokens [4]")
    parser.add_argument("--new-tokens", type=int, default=64, help="greedy tokens after a prompt [64]")
    args = parser.parse_args()
    common.one_thread()
    model, tokenizer = lk.load(args.model)
    texts = {domain: windows(tokenizer, domain) for domain in DOMAINS}
    if args.quick:
        texts = {domain: [piece[:128] for piece in pieces[:2]] for domain, pieces in texts.items()}
    kept = json.loads((common.RESULTS / "text_rate.json").read_text("utf-8")) if set(args.part) < set(PARTS) else {}
    both, goals = [] if "cut" in args.part else kept["both"], []
    for domain, pieces in tqdm([] if both else texts.items(), desc="both ways"):
        after = shared(pieces) if domain == "chat" else 0
        models = {spec: lk.split(model, codec=spec) for spec in BOTH}
        both += [{"text": domain, **row} for row in measured(models, model, pieces, after)]
    for spec, domains, bits, ratio, top1 in GOALS:
        for row in (x for x in both if x["codec"] == spec and x["text"] in domains):
            met = row["bits"] <= bits and row["ratio"] <= ratio and row["top1"] >= top1
            goals.append({**row, "goal": f"<= {bits} bits, <= {ratio}, >= {top1:.0%}", "met": bool(met)})
    how = (1, 8) if args.quick else (args.prompts, args.new_tokens)
    same = greedy(model, texts, *how) if "greedy" in args.part else kept["greedy"]
    again = seen(model, tokenizer, args.quick) if "seen" in args.part else kept["seen"]
    deep = [] if "depths" in args.part else kept["depths"]
    pieces = [p for domain in ("prose", "code") for p in texts[domain][: 1 if args.quick else 4]]
    for depth in tqdm([] if deep else DEPTHS[1:2] if args.quick else DEPTHS, desc="depths"):
        models = {spec: lk.split(model, head=depth, tail=0, codec=(spec, "fp32")) for spec in DEEP}
        deep += [{"depth": depth, **row} for row in measured(models, model, pieces, 0)]
    result = {"model": args.model, "both": both, "goals": goals, "greedy": same, "seen": again, "depths": deep}
    common.finish("text_rate", args, result, render(result))


if __name__ == "__main__":
    main()
