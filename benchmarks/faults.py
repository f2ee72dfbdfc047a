"""Runs whose hosts are killed (SIGKILL) at random steps, against runs that nobody disturbs.

A host is started anew on its port, or one of two is killed and the session goes on at the other. Hosts are processes of
their own, forked from one that has the weights (`strikes.py`). A run that was stopped goes on with the rows it lacks.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import common
import torch
from strikes import AWAY, Born, Nursery, Struck, strikes
from tqdm import tqdm

import lsplit_kit as lk

PROMPT, TOKENS, STEPS, TIMEOUT = "tick tock tick tock tick", 24, 12, 30.0
DELTA = ("fp32", "uniform:step=0.1+delta+ans")
WAYS: dict[str, dict[str, Any]] = {
    "per_step": {"mode": "per_step"},
    "lockstep": {"mode": "lockstep"},
    "blocks": {"mode": "per_step", "at": "blocks", "head": 1, "tail": 1},
}
HOWS = ("started anew", "gone on elsewhere")
MODELS = {"text": "toy-llama", "picture": "toy-sd", "real": "smollm2"}


class Case(NamedTuple):
    """One row: a model, how it is split and run, what becomes of a host that was killed, how many answers a run has."""

    model: str
    what: str
    how: str
    split: dict[str, Any]
    speculate: str = ""
    answers: int = TOKENS


def cases(models: dict[str, str]) -> list[Case]:
    """Every row, those of the real model last."""
    found = [
        Case(models[kind], f"cache {policy}" + (f", {drafts}" if drafts else ""), how, {"cache": policy}, drafts,
             10 if drafts else TOKENS)
        for kind in ("text", "real") for policy in ("kv", "hidden", "none") for how in HOWS
        for drafts in ("", "prompt lookup", "lk.speculate") if kind == "text" or policy == "kv" or not drafts
    ]  # fmt: skip
    pictures = [
        Case(models["picture"], f"{way}, {name}", how, {**WAYS[way], "codec": codec}, "", STEPS)
        for way in WAYS for name, codec in (("fp32", None), (DELTA[1], DELTA)) for how in HOWS
    ]  # fmt: skip
    real = [case for case in found if case.model == models["real"]]
    return [case for case in found if case not in real] + pictures + real


def runner(case: Case, model: Any) -> tuple[Callable[[Any], torch.Tensor], Any]:
    """(what one run gives, the model whose runs nobody disturbs)."""
    if "mode" in case.split:
        model.set_progress_bar_config(disable=True)
        call = dict(prompt="a red apple", num_inference_steps=STEPS, output_type="latent")

        def draw(pipe: Any) -> torch.Tensor:
            return torch.as_tensor(pipe(**call, generator=torch.Generator().manual_seed(1234567)).images)

        return draw, model if case.split["codec"] is None else lk.split(model, **case.split)
    model, tok = model
    ids = tok(PROMPT, return_tensors="pt")["input_ids"]
    options: dict[str, Any] = dict(max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)

    def reply(lm: Any) -> torch.Tensor:
        if lm is not model and case.speculate == "lk.speculate":
            return lk.speculate(lm, draft="lookup").generate(ids, **options)
        drafts = {"prompt_lookup_num_tokens": 4} if lm is not model and case.speculate else {}
        return lm.generate(ids, **options, **drafts)

    return reply, model


def row(case: Case, model: Any, nursery: Nursery, runs: int, kills: int) -> dict[str, Any]:
    """What became of so many runs with so many kills each."""
    run, undisturbed = runner(case, model)
    whole = model[0] if isinstance(model, tuple) else model
    want, same, hits, replayed, moved = run(undisturbed), 0, Counter[str](), [], 0
    for number in tqdm(range(runs), desc=f"{case.model}, {case.what}, {case.how}"):
        hosts: list[Born] = [nursery.start() for _ in range(1 if case.how == HOWS[0] else 2)]
        body = hosts[0].address if len(hosts) == 1 else [host.address for host in hosts]
        cut = {} if "mode" in case.split else {"head": 2, "tail": 2}
        split = lk.split(whole, body=body, timeout=TIMEOUT, **cut, **case.split)
        seed = zlib.crc32(f"{case.model} {case.what} {case.how} {number}".encode())
        at = strikes(kills, case.answers, seed)
        split.remote.link = link = Struck(split.remote.link, nursery, hosts, at, seed)
        with lk.tap(split) as wire:
            got = run(split)
        link.close()
        for host in link.hosts.values():
            nursery.kill(host)
        same += torch.equal(got, want)
        hits.update(how for _, how in link.hits)
        ledger = wire.ledger()
        up = ledger[ledger.direction == "up"]
        replayed.append(float(up[up.kind == "replay"].payload.sum() / up.payload.sum()))
        moved += int((up.kind == "moved").sum())
    return {
        "model": case.model, "what": case.what, "how": case.how, "runs": runs, "same": same, "hits": dict(hits),
        "kills": sum(hits.values()), "moves": moved, "replayed": round(sum(replayed) / runs, 3),
    }  # fmt: skip


def measure(models: dict[str, str], runs: dict[str, int], kills: int, part: Path) -> list[dict[str, Any]]:
    """Every row; each is written to `part` when it is there, and found there when a run goes on."""
    known = [json.loads(line) for line in part.read_text("utf-8").splitlines()] if part.exists() else []
    done = {(r["model"], r["what"], r["how"], r["runs"]): r for r in known}
    every = {(case.model, case.what, case.how, runs[case.model]): case for case in cases(models)}
    for name in dict.fromkeys(case.model for case in every.values()):
        missing = [key for key in every if key[0] == name and key not in done]
        if not missing:
            continue
        model = lk.load(name)
        with Nursery(name, 2, 2) as nursery:
            for key in missing:
                done[key] = row(every[key], model, nursery, runs[name], kills)
                with part.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(done[key]) + "\n")
    return [done[key] for key in every]


def render(r: dict[str, Any]) -> str:
    """The Markdown of one run."""
    said = (
        f"Each run is a reply of {r['tokens']} greedy tokens (head 2 / tail 2) or a picture of {r['steps']} steps, in "
        f"which the host in use is killed {r['kills_a_run']} times with SIGKILL, at random answers: between two steps, "
        "in the middle of one, or with several under way. A host is a process forked from one that has the weights "
        "in memory, so that the next is there in milliseconds; the only one, killed while it has something to "
        f"do, is away for {r['away']:g} s, and is waited for. *The same*: replies have the unsplit model's tokens, "
        "pictures are bit-identical to the unsplit pipeline's, those with a codec that loses something to the "
        "undisturbed split's. *Sent again*: the share of the payload that goes up for the second time; without a cache "
        "everything goes up at every step anyway."
    )
    by_model = {
        name: [x for x in r["kills"] if x["model"] == name] for name in dict.fromkeys(x["model"] for x in r["kills"])
    }
    sums = [[f"`{name}`", _sum(rows, "kills"), _share(rows)] for name, rows in by_model.items()]
    head = ["model", "run", "a killed host is", "kills", "not between steps", "moves", "the same", "sent again"]
    rows = [
        [f"`{x['model']}`", x["what"], x["how"], x["kills"], x["kills"] - x["hits"].get("between steps", 0), x["moves"],
         _share([x]), f"{x['replayed']:.0%}"]
        for x in r["kills"]
    ]  # fmt: skip
    met = [[name, "yes" if reached else "no"] for name, reached in r["targets"].items()]
    tables = [(["model", "kills", "runs that are the same"], sums), (head, rows), (["target", "met in this run"], met)]
    return "\n\n".join([said, *(common.table(*one) for one in tables)])


def _sum(rows: list[dict[str, Any]], name: str) -> int:
    return sum(row[name] for row in rows)


def _share(rows: list[dict[str, Any]]) -> str:
    return f"{_sum(rows, 'same')} of {_sum(rows, 'runs')}"


def main() -> None:
    """Measure and report."""
    parser = common.options(__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each row")
    parser.add_argument("--real-runs", type=int, default=2, help="of each row of the real model")
    parser.add_argument("--kills", type=int, default=5, help="in each run")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of a run that was stopped")
    args = parser.parse_args()
    common.one_thread()
    warnings.filterwarnings("ignore", message=".*(going on at|Waiting up to)", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    models = {**MODELS, "real": "toy-mistral"} if args.quick else MODELS
    part = common.RESULTS / f"faults{'-quick' if args.quick else ''}.part.jsonl"
    if args.fresh or args.quick:
        part.unlink(missing_ok=True)
    runs = {name: 1 if args.quick else args.real_runs if kind == "real" else args.runs for kind, name in models.items()}
    rows = measure(models, runs, args.kills, part)
    kills, made, same = (_sum(rows, name) for name in ("kills", "runs", "same"))
    inside = [sum(r["kills"] - r["hits"].get("between steps", 0) for r in rows if r["how"] == how) for how in HOWS]
    targets = {
        "at least 100 kills": kills >= 100,
        "at least 25 kills not between steps, of hosts started anew and of others": min(inside) >= 25,
        "every run is the same": same == made,
        "every kill that was meant was made": kills == made * args.kills,
    }
    result = {
        "tokens": TOKENS,
        "steps": STEPS,
        "kills_a_run": args.kills,
        "away": AWAY,
        "targets": targets,
        "kills": rows,
    }
    common.finish("faults", args, result, render(result))
    part.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
