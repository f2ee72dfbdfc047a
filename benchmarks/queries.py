"""What an attacker without weights reads by how many tokens it may send through the learner's head.

Prompts are the kit's own (`lsplit_kit.data.prompts`), as a user's message under the chat template, cut to 32 tokens;
the text that is sent, and fitted to, is what every Python carries. The template is not counted.
"""

from __future__ import annotations

from typing import Any

import common
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks import Knowledge, PriorOnly, PrototypeLDA, Ridge, SequenceInverter, record, report
from lsplit_kit.attacks.threats import oracle
from lsplit_kit.data import prompts, topics
from lsplit_kit.measure.inversion import leak_of

DEPTH, BUDGETS, COUNT, LONGEST, OBSERVER = 1, (1_000, 5_000, 20_000), 24, 32, "eavesdrop_up"
ATTACKS = (Ridge, PrototypeLDA, SequenceInverter)


def measure(quick: bool) -> dict[str, Any]:
    """Every attack at every number of queries."""
    model, tok = lk.load("smollm2")
    own, texts = [text for _, text in topics("all")], [p.text for p in prompts(count=4 if quick else COUNT)]
    capture = record(lk.split(model, head=DEPTH, tail=0), texts, longest=LONGEST)
    view, rows = capture.view(OBSERVER), []
    prior = report(PriorOnly().fit(view, Knowledge(None, tok, text=own)).reconstruct(view), capture)
    for budget in tqdm(BUDGETS[:2] if quick else BUDGETS, desc="queries"):
        know = Knowledge(None, tok, head="none", tail="none", text=own, queries=oracle(model, DEPTH), budget=budget)
        for attack in ATTACKS:
            said = report(attack().fit(view, know).reconstruct(view), capture)
            rows.append({"attack": said.attack, "budget": budget, "queries": said.cost.queries,
                         "tokens": len(said.counted), "accuracy": said.accuracy(), "top10": said.top10(),
                         "bits": leak_of(said, prior).bits, "fit_seconds": said.cost.fit_seconds})  # fmt: skip
    return {"rows": rows, "depth": DEPTH, "prompts": len(texts), "h0": leak_of(prior, prior).h0}


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    cells = [
        [x["attack"], f"{x['budget']:,}", f"{x['queries']:,}", f"{x['accuracy']:.1%}", f"{x['top10']:.1%}",
         f"{x['bits']:.2f}", f"{x['fit_seconds']:.0f}"]
        for x in sorted(r["rows"], key=lambda x: [a.__name__ for a in ATTACKS].index(x["attack"]))
    ]  # fmt: skip
    head = ["attack", "tokens it may send", "sent", "tokens read", "among ten best", "bits a token", "fit (CPU-s)"]
    return (
        f"`smollm2` behind {r['depth']} layer, {r['prompts']} prompts of at most {LONGEST} tokens, "
        f"{r['rows'][0]['tokens']:,} tokens, observer `{OBSERVER}`, who has no weights, knows the codec and the "
        "cut, and may send so many tokens of its own through the learner's head. Half of them are text of its own, the "
        "others the tokens that it finds likeliest there, in random order. Bits: H0 minus calibrated cross-entropy; "
        f"H0 is {r['h0']:.2f} bits for one who knows how often words occur.\n\n{common.table(head, cells)}"
    )


def main() -> None:
    """Measure and report."""
    args = common.options(__doc__).parse_args()
    common.one_thread()
    result = measure(args.quick)
    common.finish("queries", args, result, render(result))


if __name__ == "__main__":
    main()
