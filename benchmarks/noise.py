"""What `VocabMatch` reads through fresh noise: how loud x how deep, with what it cost.

Prompts are the kit's own (`lsplit_kit.data.prompts`), as a user's message under the chat template, cut to 16 tokens;
the text that prototypes are fitted to is what every Python carries. The template is not counted. Rows are written as
they come, and a run that was stopped goes on where it was (`--fresh` begins anew).
"""

from __future__ import annotations

from typing import Any

import common
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks import Knowledge, VocabMatch, noisy, record, report
from lsplit_kit.data import prompts, topics

DEPTHS, SIGMAS, COUNT, LONGEST, OBSERVER = (1, 5, 15), (0.0, 0.1, 0.3, 1.0), 8, 16, "eavesdrop_up"


def measure(quick: bool, rows: list[dict[str, Any]], save: Any) -> dict[str, Any]:
    """Every depth and noise that is not in `rows` yet."""
    model, tok = lk.load("smollm2")
    own, texts = [text for _, text in topics("all")], [p.text for p in prompts(count=2 if quick else COUNT)]
    for depth in tqdm(DEPTHS[:1] if quick else DEPTHS, desc="depths"):
        done = {r["sigma"] for r in rows if r["depth"] == depth}
        if done >= set(SIGMAS):
            continue
        know = Knowledge(model, tok, text=own)
        capture = record(lk.split(model, head=depth, tail=0), texts, longest=LONGEST)
        attack = VocabMatch().fit(capture.view(OBSERVER), know)
        for sigma in (s for s in SIGMAS if s not in done):
            loud = noisy(capture, sigma)
            said = report(attack.reconstruct(loud.view(OBSERVER)), loud)
            count = len(said.counted)
            rows.append({"depth": depth, "sigma": sigma, "prompts": len(texts), "tokens": count,
                         "accuracy": said.accuracy(), "top10": said.top10(), "exact": said.exact(),
                         "candidates": said.cost.candidates / count,
                         "seconds_per_token": said.cost.read_seconds / count})  # fmt: skip
            save(rows)
    return {"rows": rows}


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = sorted(r["rows"], key=lambda x: (x["depth"], x["sigma"]))
    cells = [
        [x["depth"], f"{x['sigma']:g}", f"{x['accuracy']:.1%}", f"{x['top10']:.1%}", f"{x['exact']:.0%}",
         f"{x['candidates']:.0f}", f"{x['seconds_per_token']:.3f}"]
        for x in rows
    ]  # fmt: skip
    head = ["layers before the cut", "noise", "tokens", "ten best", "whole prompts", "candidates a token",
            "CPU-s a token"]  # fmt: skip
    return (
        f"`smollm2`, `VocabMatch` with prototypes, {rows[0]['prompts']} prompts of at most {LONGEST} tokens, "
        f"{rows[0]['tokens']:,} tokens, observer `{OBSERVER}`, who knows the public weights, the template and the cut, "
        "but neither how loud the noise is nor that there is any. Noise: standard deviation of fresh Gaussian noise "
        "on every value of the FP32 uplink, in units of the RMS of the vectors without those of position 0.\n\n"
        f"{common.table(head, cells)}"
    )


if __name__ == "__main__":
    common.by_rows("noise", __doc__ or "", measure, render)
