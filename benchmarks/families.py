"""Which families survive the cut: every toy x every (head, tail) x every cache policy, against the unsplit model."""

from __future__ import annotations

import itertools
from typing import Any

import common
import torch

import lsplit_kit as lk
from lsplit_kit.models.toys import toy_names, toy_trait

POLICIES = ("kv", "hidden", "none")
PROMPT, NEW = 12, 5  # longer than the toys' sliding window of 8


def plans(layers: int, quick: bool) -> list[tuple[int, int]]:
    """Every (head, tail) that leaves a body; three of them in a quick run."""
    every = [(h, t) for h, t in itertools.product(range(layers), repeat=2) if h + t < layers]
    return [(0, 0), (1, 2), (layers - 1, 0)] if quick else every


def generate(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [B, T] and the logits of every new token [NEW, B, V], greedy."""
    out = model.generate(
        ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    return out.sequences, torch.stack(out.logits)


def family(name: str, quick: bool) -> dict:
    """Count, over all plans, bit-equal logits and identical tokens, and the largest logit difference, by policy."""
    model, _ = lk.load(name)
    text = model.config.get_text_config(decoder=True)
    ids = torch.randint(3, text.vocab_size, (2, PROMPT), generator=torch.Generator().manual_seed(7))
    tokens, logits = generate(model, ids)
    cuts = plans(text.num_hidden_layers, quick)
    row: dict[str, Any] = {"toy": name, "family": text.model_type, "trait": toy_trait(name), "plans": len(cuts)}
    for policy in POLICIES:
        seen = {"bit_equal": 0, "tokens": 0, "max_diff": 0.0, "failed": []}
        for head, tail in cuts:
            try:
                lm = lk.split(model, head=head, tail=tail, cache=policy)
                got, values = generate(lm, ids)
                lm.close()
            except Exception as err:  # a family that breaks is a row of the table, not the end of it
                seen["failed"].append(f"({head}, {tail}): {type(err).__name__}: {err}"[:200])
                continue
            seen["bit_equal"] += torch.equal(values, logits)
            seen["tokens"] += torch.equal(got, tokens)
            seen["max_diff"] = max(seen["max_diff"], float((values - logits).abs().max()))
        row[policy] = seen
    return row


def passes(row: dict) -> bool:
    """kv bit-equal, the other policies token for token within 2e-4, for every plan."""
    n = row["plans"]
    return row["kv"]["bit_equal"] == n and all(
        row[p]["tokens"] == n and row[p]["max_diff"] <= 2e-4 for p in POLICIES[1:]
    )


def render(r: dict) -> str:
    """The result as Markdown."""
    rows = [
        [
            row["family"],
            row["trait"],
            row["plans"],
            "yes" if row["kv"]["bit_equal"] == row["plans"] else f"no ({row['kv']['bit_equal']} of {row['plans']})",
            *itertools.chain.from_iterable(
                (
                    "yes" if row[p]["tokens"] == row["plans"] else f"no ({row[p]['tokens']} of {row['plans']})",
                    f"{row[p]['max_diff']:.0e}",
                )
                for p in POLICIES[1:]
            ),
        ]
        for row in r["families"]
    ]
    head = [
        "family",
        "what is special",
        "plans",
        "kv: bit-equal",
        "hidden: same tokens",
        "hidden: largest logit difference",
        "none: same tokens",
        "none: largest logit difference",
    ]
    said = (
        f"{sum(map(passes, r['families']))} of {len(r['families'])} families pass. Each is a six-layer toy with random "
        f"weights, cut at {r['families'][0]['plans']} different (head, tail) in this process, "
        f"fp32, one thread: 2 rows of {r['prompt']} prompt tokens, "
        f"{r['new']} greedy new ones, the logits of every new token compared with the unsplit model's."
    )
    return f"{said}\n\n{common.table(head, rows)}"


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--only", nargs="*", default=None, help="toys to look at")
    args = parser.parse_args()
    common.one_thread()
    with torch.inference_mode():
        rows = [family(name, args.quick) for name in args.only or toy_names()]
    result = {"prompt": PROMPT, "new": NEW, "families": rows, "passing": sum(map(passes, rows))}
    if args.only:
        print(render(result))
    else:
        common.finish("families", args, result, render(result))


if __name__ == "__main__":
    main()
