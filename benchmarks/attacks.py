"""What attacks read off the wire: attack x depth x codec, with bits per token and what it cost.

Prompts are the kit's own (`lsplit_kit.data.prompts`), as a user's message under the chat template, cut to 32 tokens,
and the model's greedy reply to each; attackers are fitted to the text that every Python carries. The template is not
counted. Rows are written as they come, and a run that was stopped goes on where it was (`--fresh` begins anew).
`--full`: all 300 prompts and every depth.
"""

from __future__ import annotations

import json
from typing import Any

import common
from scipy.stats import beta
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks import Knowledge, Report, record, report
from lsplit_kit.attacks.threats import LADDER
from lsplit_kit.data import prompts, topics
from lsplit_kit.errors import CalibrationMissing
from lsplit_kit.measure.inversion import language_prior, leak_of

DEPTHS, CODECS, OBSERVER = (1, 5, 10, 15, 20, 25, 29), ("fp32", "int8:token", "auto:text"), "eavesdrop_up"
COUNT, LONGEST, REPLY = 40, 32, 8
GOALS = {"PrototypeLDA": {1: 0.97, 5: 0.92, 15: 0.80}}
MATCH = {"accuracy": 0.999, "exact": 0.97, "seconds_per_token": 0.5}
LADDER_SECONDS = 180


def row(said: Report, prior: Report, depth: int, codec: str) -> dict[str, Any]:
    """One line of the table."""
    leak = leak_of(said, prior)
    by_kind = {kind: said.accuracy(kind) for kind in ("prompt", "reply")}
    figures = {**said.row(), **by_kind, "bits": leak.bits, "low": leak.interval[0], "high": leak.interval[1],
               "h0": leak.h0, "candidates": said.cost.candidates}  # fmt: skip
    figures.pop("first")  # under a template no prompt has a position 0
    named = {"depth": depth, "codec": codec, "prompts": int(said.tokens.conversation.nunique())}
    return {**named, **{k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}}


def measure(args: Any, rows: list[dict[str, Any]], save: Any) -> dict[str, Any]:
    """Every depth and codec that is not in `rows` yet."""
    count, depths = (300, range(1, 30)) if args.full else (4, (1,)) if args.quick else (COUNT, DEPTHS)
    depths, codecs = args.depths or depths, args.codecs or CODECS
    ladder = {name: cls for name, cls in LADDER.items() if name in ("PriorOnly", *(args.attacks or LADDER))}
    texts, own = [p.text for p in prompts(count=count)], [text for _, text in topics("all")]
    model, tok = lk.load("smollm2")
    told = None
    for depth in tqdm(depths, desc="depths"):
        know = Knowledge(
            model, tok, text=own
        )  # a new one each: what it worked out for one depth is of no use elsewhere
        for codec in codecs:
            done = {r["attack"] for r in rows if (r["depth"], r["codec"], r["prompts"]) == (depth, codec, count)}
            if done >= set(ladder):
                continue
            try:
                lm = lk.split(model, head=depth, tail=0, codec=(codec, "fp32"))
            except CalibrationMissing:
                continue  # the kit ships calibrations for some depths
            capture = record(lm, texts, longest=LONGEST, new_tokens=REPLY)
            view, prior = capture.view(OBSERVER), None
            for name, cls in ladder.items():
                attack = cls().fit(view, know)
                said = report(attack.reconstruct(view), capture)
                prior = said if prior is None else prior
                if name not in done:
                    rows.append(row(said, prior, depth, codec))
                    save(rows)
            if told is None:
                told = language_prior(model, prior)
    if told is not None:
        args.expected = float(-told.expected.mean() / 0.6931471805599453)
    return {"rows": rows}


def judged(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Goals of the ladder, what was measured, what that shows at least, and whether the measured figure meets it."""
    found = []
    matched = [r for r in rows if r["attack"] == "VocabMatch"]
    for name, goal in MATCH.items():
        slow = name == "seconds_per_token"
        worst = (max if slow else min)(matched, key=lambda r: r[name])
        value, count = worst[name], worst["prompts" if name == "exact" else "tokens"]
        met = value <= goal if slow else value >= goal
        shown = "" if slow else f"{floor(round(value * count), count):.2%} of {count:,}"
        found.append([f"matching, worst {name}", f"{goal:g}", f"{value:.4g}", shown, "yes" if met else "no"])
    for attack, goals in GOALS.items():
        for depth, goal in goals.items():
            got = [r["accuracy"] for r in rows if (r["attack"], r["depth"], r["codec"]) == (attack, depth, "fp32")]
            if got:
                met = "yes" if got[0] >= goal else "no"
                found.append([f"{attack}, depth {depth}", f"{goal:.0%}", f"{got[0]:.1%}", "", met])
    for depth in sorted({r["depth"] for r in rows if r["attack"] == "Ridge"}):
        spent = sum(r["fit_seconds"] + r["seconds_per_token"] * r["tokens"]
                    for r in rows if (r["depth"], r["codec"]) == (depth, "fp32"))  # fmt: skip
        met = "yes" if spent <= LADDER_SECONDS else "no"
        found.append([f"all attacks, depth {depth}, fp32, CPU-s", f"{LADDER_SECONDS}", f"{spent:.0f}", "", met])
    return found


def floor(right: int, count: int, level: float = 0.95) -> float:
    """The least share that `right` of `count` independent tries leave likely, one-sided (Clopper and Pearson 1934)."""
    return float(beta.ppf(1 - level, right, count - right + 1)) if right else 0.0


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    found = sorted(r["rows"], key=lambda x: (x["codec"] != "fp32", x["codec"], x["depth"]))
    whole = {(x["depth"], x["codec"]) for x in found if x["attack"] == "Ridge"}  # where the whole ladder was climbed
    rows = [x for x in found if (x["depth"], x["codec"]) in whole]
    cells = [
        [x["attack"], x["depth"], f"`{x['codec']}`", f"{x['accuracy']:.1%}", f"{x['top10']:.1%}", f"{x['exact']:.0%}",
         f"{x['reply']:.1%}", f"{x['bits']:.2f} ({x['low']:.2f} to {x['high']:.2f})", f"{x['bits'] / x['h0']:.1%}",
         f"{x['fit_seconds']:.0f}",
         f"{x['seconds_per_token']:.3f}"]
        for x in rows
    ]  # fmt: skip
    head = ["attack", "layers before the cut", "codec", "tokens", "ten best", "whole prompts", "reply", "bits a token",
            "of H0", "fit (CPU-s)", "CPU-s a token"]  # fmt: skip
    h0 = next(x["h0"] for x in rows)
    expected = f", {r['expected']:.2f} for one who has read the text so far" if r.get("expected") else ""
    said = (
        f"`smollm2`, {rows[0]['prompts']} prompts of at most {LONGEST} tokens and {REPLY} tokens of each reply, "
        f"observer `{OBSERVER}`, who knows the public weights, the template, the codec and the cut. Bits: H0 minus "
        "cross-entropy, 95 % interval over prompts, which has the spread of H0 in it; "
        f"H0 is {h0:.2f} bits for one who knows how often words occur{expected}; behind a lossy codec replies may "
        "differ, and H0 with them. Beliefs are calibrated on text of the attacker's own, but an attack that only says "
        "tokens is taken to be as sure as it is right here. "
        "Fitting is shared: an attack that finds the vectors of the texts already there does not pay for them again."
    )
    goals = common.table(
        [
            "goal",
            "at least (seconds: at most)",
            "measured",
            "95 % floor, were all independent",
            "met by what was measured",
        ],
        judged(found),
    )
    path = common.RESULTS / "attacks_full.json"
    more = "\n\n" + render_full(json.loads(path.read_text("utf-8"))) if path.exists() else ""
    return f"{said}\n\n{common.table(head, cells)}\n\n{matching(found)}\n\n{goals}{more}"


def render_full(r: dict[str, Any]) -> str:
    """What matching reads of all prompts, and the least that this shows."""
    rows = sorted((x for x in r["rows"] if x["attack"] == "VocabMatch"), key=lambda x: (x["codec"], x["depth"]))
    cells = [
        [x["depth"], f"`{x['codec']}`", x["prompts"], f"{x['exact']:.2%}",
         f"{floor(round(x['exact'] * x['prompts']), x['prompts']):.2%}", x["tokens"], f"{x['accuracy']:.3%}",
         f"{floor(round(x['accuracy'] * x['tokens']), x['tokens']):.3%}", f"{x['seconds_per_token']:.3f}"]
        for x in rows
    ]  # fmt: skip
    head = ["layers before the cut", "codec", "prompts", "whole prompts", "95 % floor", "tokens", "right",
            "95 % floor, were all independent", "CPU-s a token"]  # fmt: skip
    return (
        "`VocabMatch` on all prompts (`python benchmarks/attacks.py --full --attacks VocabMatch --depths 5 20`):\n\n"
        + common.table(head, cells)
    )


def matching(rows: list[dict[str, Any]]) -> str:
    """What `VocabMatch` reads at every depth where it was tried, as a table with three columns a codec."""
    by = {(x["depth"], x["codec"]): x for x in rows if x["attack"] == "VocabMatch"}
    codecs, depths = [c for c in CODECS if any(c == k for _, k in by)], sorted({d for d, _ in by})
    cells = [
        [depth, *(f"{x['accuracy']:.2%} / {x['exact']:.0%} / {x['seconds_per_token']:.3f}" if (x := by.get((depth, c)))
                  else "" for c in codecs)]
        for depth in depths
    ]  # fmt: skip
    return (
        "`VocabMatch` by depth: tokens right / whole prompts right / CPU-s a token. An empty cell was not tried: the "
        "kit ships the calibration of `auto:text` for some depths only. "
        "`python benchmarks/attacks.py --attacks VocabMatch --depths 2 3 4` goes on with others.\n\n"
        + common.table(["layers before the cut", *(f"`{c}`" for c in codecs)], cells)
    )


def main() -> None:
    """Measure, save after every row, report."""
    parser = common.options(__doc__)
    parser.add_argument("--full", action="store_true", help="all prompts, every depth: hours")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--depths", type=int, nargs="*", help="only these")
    parser.add_argument("--codecs", nargs="*", help="only these")
    parser.add_argument("--attacks", nargs="*", choices=list(LADDER), help="only these, and PriorOnly")
    args = parser.parse_args()
    common.one_thread()
    name = "attacks_full" if args.full else "attacks"
    path = common.RESULTS / f"{name}{'-quick' if args.quick else ''}.json"
    kept = json.loads(path.read_text("utf-8")) if path.exists() and not (args.fresh or args.quick) else {"rows": []}

    def save(rows: list[dict[str, Any]]) -> None:
        common.RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps({**kept, "rows": rows}, indent=1) + "\n", "utf-8")

    args.expected = kept.get("expected")
    result = measure(args, kept["rows"], save)
    result["expected"] = args.expected
    common.finish(name, args, result, (render_full if args.full else render)(result))


if __name__ == "__main__":
    main()
