"""Whose weights are known is all that counts: heads that are the learner's, and heads that are another model's.

Two models of one shape: the public `smollm2`, and the same class with weights drawn at random (`SEED`), never trained.
Each is the learner's in turn, and an attacker who is sure to know the head has either. Prompts are the kit's own, as a
user's message under the chat template, cut to 32 tokens; the template is not counted. Rows are written as they come,
and a run that was stopped goes on where it was (`--fresh` begins anew).
"""

from __future__ import annotations

import warnings
from typing import Any

import common
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks import Knowledge, PriorOnly, PrototypeLDA, VocabMatch, record, report
from lsplit_kit.data import prompts, topics
from lsplit_kit.measure.inversion import leak_of

DEPTHS, COUNT, LONGEST, SEED, OBSERVER = (1,), 6, 32, 7, "eavesdrop_up"
ATTACKS = (PriorOnly, PrototypeLDA, VocabMatch)
TRAINED, DRAWN = "public", "drawn at random"


def drawn(model: Any) -> Any:
    """A model of the same class and shape whose weights are as they are before training."""
    import torch

    torch.manual_seed(SEED)
    other = type(model)(model.config).eval()
    other.lsplit_name, other.lsplit_folder, other.lsplit_tokenizer = "smollm2, untrained", None, model.lsplit_tokenizer
    return other


def measure(quick: bool, rows: list[dict[str, Any]], save: Any) -> dict[str, Any]:
    """Every attack, by the head at work and the head that the attacker takes it for, that is not in `rows` yet."""
    model, tok = lk.load("smollm2")
    own, texts = [text for _, text in topics("all")], [p.text for p in prompts(count=2 if quick else COUNT)]
    models = {TRAINED: model, DRAWN: drawn(model)}
    for depth in tqdm(DEPTHS[:1] if quick else DEPTHS, desc="depths"):
        captures = {name: record(lk.split(m, head=depth, tail=0), texts, longest=LONGEST) for name, m in models.items()}
        for known, theirs in models.items():
            know = Knowledge(theirs, tok, text=own)
            for name, capture in captures.items():
                named = {"depth": depth, "learner": name, "attacker": known}
                done = {r["attack"] for r in rows if named.items() <= r.items()}
                if done >= {attack.__name__ for attack in ATTACKS}:
                    continue
                view, prior = capture.view(OBSERVER), None
                for attack in ATTACKS:
                    with warnings.catch_warnings():
                        warnings.filterwarnings("ignore", "None of the tokens explains")
                        found = report(attack().fit(view, know).reconstruct(view), capture)
                    prior = found if prior is None else prior
                    if found.attack not in done:
                        rows.append({**named, "attack": found.attack, "prompts": len(texts),
                                     "tokens": len(found.counted), "accuracy": found.accuracy(), "exact": found.exact(),
                                     "bits": leak_of(found, prior).bits,
                                     "seconds_per_token": found.cost.read_seconds / len(found.counted)})  # fmt: skip
                        save(rows)
    return {"rows": rows}


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    order = [attack.__name__ for attack in ATTACKS]
    rows = sorted(r["rows"], key=lambda x: (x["depth"], x["learner"] != x["attacker"], x["learner"] != TRAINED,
                                            order.index(x["attack"])))  # fmt: skip
    cells = [
        [x["depth"], x["learner"], x["attacker"], x["attack"], f"{x['accuracy']:.1%}", f"{x['exact']:.0%}",
         f"{x['bits']:.2f}", f"{x['seconds_per_token']:.3f}"]
        for x in rows
    ]  # fmt: skip
    head = ["layers before the cut", "learner's weights", "attacker's weights", "attack", "tokens", "whole prompts",
            "bits a token", "CPU-s a token"]  # fmt: skip
    return (
        f"`smollm2` and a model of the same class and shape with weights drawn at random (seed {SEED}), "
        f"{rows[0]['prompts']} prompts of at most {LONGEST} tokens, {rows[0]['tokens']:,} tokens, observer "
        f"`{OBSERVER}`, who takes the learner's head for that of the model it has. Where both are the same it is read, "
        "trained or not; where they are not, no attack should read more than `PriorOnly`, which looks at no vector. "
        f"Bits: as in the table of attacks, down to below 0 where a belief misleads.\n\n{common.table(head, cells)}"
    )


if __name__ == "__main__":
    common.by_rows("controls", __doc__ or "", measure, render)
