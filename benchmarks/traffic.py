"""What the cache saves: payload bytes up, measured with and without a cache policy, against the counting formula.

With P prompt and N new tokens a cache sends P + N - 1 vectors; without one, step i sends P + i vectors again.
"""

from __future__ import annotations

import math

import common
import torch

import lsplit_kit as lk
from lsplit_kit.measure import reaches, reduction, reply_vectors

PROMPTS = (8, 64)
LENGTHS = (1, 2, 5, 10, 20, 50, 100, 150, 200, 250)
POLICIES = ("kv", "hidden", "none")


def measured(model: object, policy: str, p: int, lengths: list[int]) -> dict[int, tuple[int, int]]:
    """{N: payload bytes (up, down)} counted by a tap while p + N tokens are generated."""
    ids = torch.randint(3, 300, (1, p), generator=torch.Generator().manual_seed(1))
    lm = lk.split(model, head=2, tail=2, body="loopback", cache=policy)
    found = {}
    for n in lengths:
        with lk.tap(lm) as wire:
            lm.generate(ids, max_new_tokens=n, min_new_tokens=n, do_sample=False)
        found[n] = tuple(sum(c.payload for c in wire.crossings if c.direction == way) for way in ("up", "down"))
    lm.close()
    return found


def cut(share: float) -> str:
    """Percent with two digits, the rest cut off: a share just below 99 % is not 99 %."""
    return f"{math.floor(share * 1e4) / 100:.2f}%"


def render(r: dict) -> str:
    """The result as Markdown."""
    rows = [
        [x["prompt"], x["new"], f"{x['none'][0]:,}", f"{x['kv'][0]:,}", cut(x["saving"]), cut(x["formula"])]
        for x in r["rows"]
    ]
    measured = {x["prompt"] for x in r["rows"]}
    marks = "; ".join(
        f"{x['prompt']} prompt tokens{'' if x['prompt'] in measured else ' (by the formula alone, not in the table)'}: "
        f"{x['share']:.0%} from {x['new']} new tokens on"
        for x in r["reaches"]
    )
    return "\n\n".join(
        [
            f"`{r['model']}` ({r['vector_bytes']} bytes a vector, fp32), head 2 / tail 2, payload bytes up. "
            f"Policy hidden sends "
            f"the same as kv: {'yes' if r['hidden_as_kv'] else 'no'}. "
            f"Down equals up: {'yes' if r['down_as_up'] else 'no'}. "
            f"Every count equals the formula: {'yes' if r['as_counted'] else 'no'}.",
            common.table(
                ["prompt tokens", "new tokens", "bytes without cache", "bytes with cache", "saved", "formula"], rows
            ),
            f"Where the saving passes a mark: {marks}.",
        ]
    )


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    args = parser.parse_args()
    common.one_thread()
    model, _ = lk.load("toy-llama")
    unit = model.config.hidden_size * 4
    rows, counts = [], {}
    with torch.inference_mode():
        for p in PROMPTS:
            lengths = [n for n in LENGTHS if n <= (10 if args.quick else 1000)]
            lengths += [] if args.quick else [reaches(p, 0.99) - 1, reaches(p, 0.99)]
            counts[p] = {policy: measured(model, policy, p, sorted(set(lengths))) for policy in POLICIES}
            rows += [
                {
                    "prompt": p,
                    "new": n,
                    **{policy: counts[p][policy][n] for policy in POLICIES},
                    "saving": 1 - counts[p]["kv"][n][0] / counts[p]["none"][n][0],
                    "formula": reduction("kv", p, n),
                }
                for n in sorted(set(lengths))
            ]
    result = {
        "model": "toy-llama",
        "vector_bytes": unit,
        "rows": rows,
        "reaches": [{"prompt": p, "share": s, "new": reaches(p, s)} for p in (*PROMPTS, 512) for s in (0.9, 0.99)],
        "hidden_as_kv": all(x["hidden"] == x["kv"] for x in rows),
        "down_as_up": all(x[p][0] == x[p][1] for x in rows for p in POLICIES),
        "as_counted": all(x[p][0] == unit * reply_vectors(p, x["prompt"], x["new"]) for x in rows for p in POLICIES),
    }
    common.finish("traffic", args, result, render(result))


if __name__ == "__main__":
    main()
