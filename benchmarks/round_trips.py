"""Round trips saved, part by part. `--part text`: drafts verified in one crossing, next to one token at a time;
`--part prefill`: a long prompt in pieces under way at once.

A virtual clock adds the network (a round trip of 80 ms) and the computing. What a step of n positions computes, on both
sides together, is measured first, in processor time and as the fastest of several, so that a busy machine does not
matter; then every step and every guess of the draft net is charged with it. Results are written after every prompt, and
a run that was stopped goes on where it was (`--fresh` begins anew).
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import prefill
import torch
from tqdm import tqdm
from transformers import DynamicCache

import lsplit_kit as lk
from lsplit_kit.measure.corpus import DOMAINS, corpus, turns

RTT, PLAN, LIBRARY = 80, (2, 2), "prompt lookup of transformers, 10"
DRAFTS = (LIBRARY, "lookup", "head", "auto")
QUOTES = ("prose", "code")  # whose passages are quoted
SIZES = (1, 2, 4, 8, 16, 25, 64, 192)
GOALS = {"quoting": 2.0, "free": 0.98}


def prompts(tok: Any, each: int) -> list[dict[str, Any]]:
    """Texts that quote their prompt, and free ones: held-back passages to go on with, and questions to answer."""

    def asked(said: list[dict[str, str]]) -> Any:
        form = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        return tok.apply_chat_template(said, **form)["input_ids"]

    found = []
    for domain in QUOTES:
        for passage in corpus(domain)[: max(1, each // 2)]:
            text = " ".join(passage.split(" ")[:70])
            ids = asked([{"role": "user", "content": f"Repeat this text word for word:\n\n{text}"}])
            found.append(("quoting", f"repeat {domain}", ids))
            begun = " ".join(text.split(" ")[:6])
            ids = tok(f"{text}\n\nThe same text once more:\n\n{begun}", return_tensors="pt")["input_ids"]
            found.append(("quoting", f"once more {domain}", ids))
    for turn in range(each):
        for domain in DOMAINS:
            passage = corpus(domain)[turn]
            ids = asked(turns(passage)[:1]) if domain == "chat" else None
            found.append((domain, "free", tok(passage[:240], return_tensors="pt")["input_ids"] if ids is None else ids))
    named = [{"domain": d, "ids": ids, "key": f"{i:02} {d} {k}"} for i, (d, k, ids) in enumerate(found)]
    quoting = [p for p in named if p["domain"] == "quoting"]
    free, turn = [p for p in named if p["domain"] != "quoting"], len(DOMAINS)
    # one of every kind first, so that a stopped run says something about all
    return [*quoting[:1], *free[:turn], *quoting[1:], *free[turn:]]


class Charged(lk.EmulatedLink):
    """A network on whose clock a step costs what `cost` says of its positions, in seconds."""

    cost: Callable[[int], float] = staticmethod(lambda positions: 0.0)

    def send(self, session: int, step: Any) -> None:
        """Charge the computing, then the way."""
        self._now += self.cost(step.tokens)
        super().send(session, step)


class Paying:
    """A source of drafts whose guesses cost time on a link's clock."""

    def __init__(self, source: Any, link: Charged, seconds: float) -> None:
        self.source, self.link, self.seconds = source, link, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def __copy__(self) -> Paying:
        return Paying(copy.copy(self.source), self.link, self.seconds)

    def guess(self, drafted: Any) -> Any:
        """As the source's, and paid for."""
        self.link._now += self.seconds
        return self.source.guess(drafted)


def fastest(run: Callable[[], Any], repeats: int) -> float:
    """Processor seconds of the fastest of several calls."""
    took = []
    for _ in range(repeats):
        begun = time.thread_time()
        run()
        took.append(time.thread_time() - begun)
    return min(took)


def step_seconds(lm: Any, ids: Any, repeats: int) -> dict[int, float]:
    """What a step of so many positions computes behind a text [1, T], both sides together."""
    found = {}
    with torch.inference_mode():
        for size in SIZES:
            cache = DynamicCache(config=lm.config)
            lm(ids, past_key_values=cache)

            def step(size: int = size, cache: Any = cache) -> None:
                lm(ids[:, :1].repeat(1, size), past_key_values=cache)
                cache.crop(-size)

            found[size] = round(fastest(step, repeats), 5)
    return found


def one(lm: Any, prompt: dict[str, Any], tokens: int, guess_seconds: float) -> list[dict[str, Any]]:
    """A row for each draft: tokens a second, with none and with it, and the price."""
    options = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    rows, wanted, alone = [], [], 0.0
    for name in (None, *DRAFTS):
        fast = lm if name in (None, LIBRARY) else lk.speculate(lm, name)
        if fast is not lm:
            fast.sources = [Paying(s, lm.link, guess_seconds if s.name == "head" else 0.0) for s in fast.sources]
        more = {"prompt_lookup_num_tokens": 10} if name == LIBRARY else {}
        begun = lm.link.now
        with lk.tap(lm) as wire:
            said = fast.generate(prompt["ids"], **options, **more)[0, prompt["ids"].shape[1] :].tolist()
        seconds = lm.link.now - begun
        if name is None:
            wanted, alone = said, seconds
            continue
        sent = [c.shape[1] for c in wire.crossings if c.kind == "step" and c.direction == "up"]
        rows.append({
            "key": prompt["key"], "domain": prompt["domain"], "prompt_tokens": prompt["ids"].shape[1], "draft": name,
            "identical": said == wanted, "tokens": len(said), "trips": len(sent),
            "revealed": sum(sent) - prompt["ids"].shape[1] - len(said) + 1,
            "sequential_tokens_per_s": round(len(wanted) / alone, 3), "tokens_per_s": round(len(said) / seconds, 3),
            "sources": fast.by_source().to_dict("index") if fast is not lm else {},
        })  # fmt: skip
    return rows


def ratio(row: dict[str, Any]) -> float:
    """Tokens a second with drafts, over those without."""
    return float(row["tokens_per_s"] / row["sequential_tokens_per_s"])


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the part is held to: identical tokens, and the default draft's gain by domain (medians over prompts)."""
    own = [row for row in rows if row["draft"] == "auto"]
    domains = {row["domain"]: [ratio(r) for r in own if r["domain"] == row["domain"]] for row in own}
    gains = {name: round(statistics.median(values), 3) for name, values in domains.items()}
    free = {name: value for name, value in gains.items() if name != "quoting"}
    return {
        "identical": all(row["identical"] for row in rows),
        "quoting_speedup": gains.get("quoting"),
        "free_speedup": min(free.values(), default=None),
        "free_speedup_by_domain": free,
        "free_worst_prompt": min((round(ratio(r), 3) for r in own if r["domain"] != "quoting"), default=None),
    }


def text(args: Any, kept: dict[str, Any], save: Any) -> dict[str, Any]:
    """The part about text; calls save with what there is after every prompt."""
    model, tok = lk.load(args.model)
    lm = lk.split(model, head=PLAN[0], tail=PLAN[1])
    lm.remote.link = Charged(lm.link, rtt_ms=RTT)
    tokens, each = (24, 1) if args.quick else (64, args.each)
    part = {"rows": [], **kept, "model": args.model, "plan": list(PLAN), "rtt_ms": RTT, "new_tokens": tokens}
    if "step_seconds" not in part:
        behind = tok(corpus("prose")[0], return_tensors="pt")["input_ids"][:, :128]
        found = step_seconds(lm, behind, 2 if args.quick else 5)
        part["step_seconds"] = {str(size): took for size, took in found.items()}
        net = next(s for s in lk.speculate(lm).sources if s.name == "head")
        net.begin([1])
        net.extend([1], torch.ones(model.config.hidden_size))
        part["guess_seconds"] = round(fastest(lambda: net.guess([1]), 50), 5)
    sizes, costs = zip(*((int(k), v) for k, v in part["step_seconds"].items()), strict=True)
    lm.link.cost = lambda positions: float(np.interp(positions, sizes, costs))
    for prompt in tqdm(prompts(tok, each), desc="text"):
        if not any(row["key"] == prompt["key"] for row in part["rows"]):
            part["rows"] += one(lm, prompt, tokens, part["guess_seconds"])
            save(part)
    return part


def render_text(part: dict[str, Any]) -> str:
    """The part about text as Markdown."""
    rows, cells = part["rows"], []
    for domain in ("quoting", *DOMAINS):
        for draft in DRAFTS:
            some = [row for row in rows if (row["domain"], row["draft"]) == (domain, draft)]
            if some:
                trips, tokens = sum(r["trips"] for r in some), sum(r["tokens"] for r in some)
                cells.append([
                    domain, draft, f"{statistics.median(map(ratio, some)):.2f}", f"{min(map(ratio, some)):.2f}",
                    f"{tokens / trips:.2f}", f"{sum(r['revealed'] for r in some) / tokens:.2f}", len(some),
                ])  # fmt: skip
    found = judged(rows)
    goals = [
        ["greedy tokens as one at a time", "all", "yes" if found["identical"] else "no"],
        [f"quoting >= {GOALS['quoting']:.1f} x", f"{found['quoting_speedup']:.2f}",
         "yes" if found["quoting_speedup"] >= GOALS["quoting"] else "no"],
        [f"free text >= {GOALS['free']:.2f} x, median of the worst domain", f"{found['free_speedup']:.2f}",
         "yes" if found["free_speedup"] >= GOALS["free"] else "no"],
        [f"free text >= {GOALS['free']:.2f} x, worst prompt", f"{found['free_worst_prompt']:.2f}",
         "yes" if found["free_worst_prompt"] >= GOALS["free"] else "no"],
    ]  # fmt: skip
    computing = ", ".join(
        f"{n} position{'s' * (int(n) > 1)} {part['step_seconds'][n] * 1e3:.0f} ms" for n in map(str, (1, 2, 4, 8, 25))
    )
    said = (
        f"### Text\n\n`{part['model']}`, head {part['plan'][0]} / tail {part['plan'][1]}, fp32, policy kv, greedy, "
        f"{part['new_tokens']} new tokens at most; round trip {part['rtt_ms']} ms on a virtual clock, on which a step "
        f"also costs its measured computing on both sides ({computing}) and a guess of the draft net "
        f"{part['guess_seconds'] * 1e3:.1f} ms. Tokens a second over those without drafts: median and worst prompt. "
        "A revealed vector belongs to a rejected draft: no run without drafts would have sent it. "
        "Free texts of a small model repeat themselves: that is what lookup finds."
    )
    head = ["text", "draft", "speed-up", "worst prompt", "tokens a trip", "vectors revealed a token", "prompts"]
    return "\n\n".join([said, common.table(head, cells), common.table(["goal (`auto`)", "measured", "met"], goals)])


PARTS = {
    "text": (text, render_text, judged),
    "prefill": (prefill.measure, prefill.render, prefill.judged),
}


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    return "\n\n".join(draw(r["parts"][name]) for name, (_, draw, _) in PARTS.items() if name in r["parts"])


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all", help="measure this one, keep the others")
    parser.add_argument("--each", type=int, default=2, help="prompts of every kind")
    parser.add_argument("--fresh", action="store_true", help="forget what a stopped run has measured")
    args = parser.parse_args()
    common.one_thread()
    path = common.RESULTS / f"round_trips{'-quick' if args.quick else ''}.json"
    result = json.loads(path.read_text("utf-8")) if path.exists() else {"name": "round_trips", "parts": {}}
    for name, (measure, _, judge) in PARTS.items():
        if args.part not in (name, "all"):
            continue
        if args.fresh or result["parts"].get(name, {}).get("done"):
            result["parts"].pop(name, None)

        def save(part: dict[str, Any], name: str = name, judge: Any = judge) -> None:
            result["parts"][name] = part
            result.update(judge(part["rows"]) | {"quick": args.quick, "machine": common.machine()})
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(result, indent=1) + "\n", "utf-8")

        save({**measure(args, result["parts"].get(name, {}), save), "done": True})
    for stale in ("name", "quick", "machine"):
        result.pop(stale, None)
    common.finish("round_trips", args, result, render(result))


if __name__ == "__main__":
    main()
