"""What attacks on real wires prove in bits: drawn secrets, candidate sets, ceilings, and bits by kind of token.

Secrets are `lsplit_kit.data.canaries`, one a prompt; texts are the kit's own prompts cut to 32 tokens with a greedy
reply, as in `attacks.py`; attackers are fitted to the text that every Python carries. The template is not counted.
Rows are written as they come, and a run that was stopped goes on where it was (`--fresh` begins anew).
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import cache
from typing import Any

import common
import numpy as np
import torch
from tqdm import tqdm

import lsplit_kit as lk
from lsplit_kit.attacks import (
    Cost,
    Knowledge,
    PriorOnly,
    PrototypeLDA,
    Reconstruction,
    Report,
    VocabMatch,
    record,
    report,
)
from lsplit_kit.attacks.candidates import set_sizes
from lsplit_kit.attacks.probe import HELD
from lsplit_kit.attacks.record import template
from lsplit_kit.attacks.study import study
from lsplit_kit.data import canaries, prompts, topics
from lsplit_kit.data.canaries import KINDS, Canary
from lsplit_kit.data.prompts import DOMAINS
from lsplit_kit.measure import (
    canary_leak,
    candidate_set,
    codec_capacity,
    conformal_threshold,
    fano_accuracy,
    fano_entropy,
    leak_table,
    mass_ahead,
    min_entropy_leakage,
)
from lsplit_kit.measure.inversion import language_prior
from lsplit_kit.measure.secrets import placed, secret_log_prob

DEPTHS, CODECS, OBSERVER = (1, 5, 15), ("fp32", "int8:token", "int4:token", "auto:text"), "eavesdrop_up"
SECRETS, COUNT, LONGEST, REPLY = 32, 40, 32, 4
SHOWN = ("fp32", "int4:token")  # codecs of the table by kind of token
EXACT = ((1, "fp32"), (1, "int4:token"), (15, "fp32"))  # where the exact attack, which takes longest, reads the secrets
EARLY, COMMON = 4, 100  # positions of a prompt that are its beginning; tokens that are the most frequent ones


def drawn(lm: Any, know: Knowledge, weak: PrototypeLDA, exact: bool, count: int) -> list[dict[str, Any]]:
    """What a weak attack, fitted before, reads of secrets of every kind, and an exact one."""
    rows, before = [], len(template(know.tokenizer)[0])
    secrets = [one for kind in KINDS for one in canaries(kind, count, seed=0)]
    view = record(lm, [one.text for one in secrets]).view(OBSERVER)
    for attack in (weak, VocabMatch().fit(view, know)) if exact else (weak,):
        found = attack.reconstruct(view) if attack is not weak else at_secrets(weak, view, secrets, before)
        said = secret_log_prob(found, secrets, know.tokenizer, before)
        for kind in KINDS:
            mine = np.array([one.kind == kind for one in secrets])
            leak = canary_leak(said[mine], next(one.bits for one in secrets if one.kind == kind))
            rows.append({"secret": kind, "attack": type(attack).__name__, "entropy": leak.entropy, "bits": leak.bits,
                         "low": leak.interval.low, "high": leak.interval.high, "at_least": max(leak.lower, 0.0),
                         "secrets": leak.secrets})  # fmt: skip
    return rows


def at_secrets(weak: PrototypeLDA, view: Any, secrets: list[Canary], before: int) -> Reconstruction:
    """What a probe believes at the positions of the secrets, the only ones that are asked for."""
    vectors, positions = [], []
    for one, heard in zip(secrets, weak.heard(view), strict=True):
        start, ids = placed(one, weak.knowledge_.tokenizer)
        at = slice(before + start, before + start + len(ids))
        vectors.append(heard.vectors[at])
        positions.append(heard.positions[at])
    return Reconstruction(
        type(weak).__name__, view.observer, positions, positions, positions, lambda n: weak.beliefs(vectors[n]), Cost()
    )


def sets(attack: PrototypeLDA, know: Knowledge, found: Any, said: Report) -> list[dict[str, Any]]:
    """Candidate sets on every second prompt of each domain, calibrated on own text and on the other prompts."""
    held = study(know, attack.place_)
    vectors, tokens = held.held_vectors[HELD : 2 * HELD], held.held_tokens[HELD : 2 * HELD]
    own = attack.posterior_.read(attack._scored(vectors), attack.log_prior_, tokens)
    counted = said.counted
    ahead = mass_ahead(counted.mass, counted.log_prob, counted["rank"])
    number = counted.conversation.to_numpy()
    test, rows = number // len(DOMAINS) % 2 == 1, []  # prompts come from every domain in turn
    for name, masses in (("own text", mass_ahead(own.mass, own.log_prob, own.rank)), ("prompts", ahead[~test])):
        threshold = conformal_threshold(masses)
        sizes = [
            set_sizes([found.log_probs(n)[torch.tensor(rows.position.to_numpy())]], threshold)
            for n, rows in counted[test].groupby("conversation")
        ]
        made = candidate_set(ahead[test], np.concatenate(sizes), number[test], threshold)
        rows.append({"calibrated": name, "level": made.level, "coverage": made.coverage, "low": made.interval.low,
                     "high": made.interval.high, "median": made.median, "mean": made.mean, "drifted": made.drifted,
                     "tokens": made.tokens, "documents": made.documents})  # fmt: skip
    return rows


def classes(said: Report, prior: Report, attack: PrototypeLDA, before: int) -> list[dict[str, Any]]:
    """Bits of all tokens, by place in the text, by how often the attacker's own text has them, and by domain."""
    counted = said.counted
    early = counted.position < before + EARLY
    place = np.where(counted.kind == "reply", "reply", np.where(early, "prompt, begins", "prompt, goes on"))
    usual, belief = attack.log_prior_, attack.log_prior_[torch.tensor(counted.truth.to_numpy())]
    frequent = belief >= usual.topk(COMMON).values[-1]
    often = np.where(frequent, "most frequent", np.where(belief > usual.min(), "seen", "never seen"))
    about = np.array(DOMAINS)[counted.conversation.to_numpy() % len(DOMAINS)]
    table = leak_table(counted.log_prob, prior.counted.log_prob, counted.conversation,
                       {"place": place, "frequency": often, "domain": about}, counted.right)  # fmt: skip
    return table.reset_index().to_dict("records")


def ceilings(lm: Any, view: Any, said: Report, expected: float) -> dict[str, Any]:
    """The most that can cross a token beside what one guess and Fano's inequality say of what was read."""
    vectors = [c for c in view.crossings if c.name == "hidden"]
    alone = [len(c.data) for c in vectors if c.shape[-2] == 1]  # a reply's: payloads of one token each
    capacity = codec_capacity(alone)
    size, right = len(lm.lsplit_tokenizer()), said.accuracy()
    blind = float(said.counted.truth.value_counts(normalize=True).iloc[0])  # the best one guess for all, in hindsight
    return {
        "payload": float(np.mean(alone)), "capacity": capacity, "accuracy": right, "guess": blind,
        "left": fano_entropy(right, size), "best": fano_accuracy(capacity, expected, size),
    }  # fmt: skip


def measure(args: Any, kept: dict[str, Any], save: Any) -> None:
    """Every depth and codec that is not in `kept` yet."""
    secrets, count = (6, 6) if args.quick else (SECRETS, COUNT)
    depths, codecs = args.depths or (DEPTHS[:1] if args.quick else DEPTHS), args.codecs or CODECS
    texts, own = [p.text for p in prompts(count=count)], [text for _, text in topics("all")]
    model, tok = lk.load("smollm2")
    before = len(template(tok)[0])
    for depth in tqdm(depths, desc="depths"):
        know = Knowledge(model, tok, text=own)
        for codec in tqdm(codecs, desc="codecs", leave=False):
            if any((r["depth"], r["codec"]) == (depth, codec) for r in kept["rows"]):
                continue
            begun = time.process_time()
            lm = lk.split(model, head=depth, tail=0, codec=(codec, "fp32"))
            capture = record(lm, texts, longest=LONGEST, new_tokens=REPLY)
            view = capture.view(OBSERVER)
            attack = PrototypeLDA()
            attack.fit(view, know)
            found = attack.reconstruct(view)
            found = replace(found, log_probs=cache(found.log_probs))  # asked for three times
            said = report(found, capture)
            prior = report(PriorOnly().fit(view, know).reconstruct(view), capture)
            if "expected" not in kept:
                told = language_prior(model, prior).expected
                kept["expected"] = float(-told.mean() / np.log(2))
            row = {
                "depth": depth, "codec": codec, "ceiling": ceilings(lm, view, said, kept["expected"]),
                "bits": classes(said, prior, attack, before), "sets": sets(attack, know, found, said),
                "secrets": drawn(lm, know, attack, (depth, codec) in EXACT, secrets),
            }  # fmt: skip
            row["cpu_seconds"] = time.process_time() - begun
            kept["rows"].append(rounded(row))
            save()


def rounded(value: Any) -> Any:
    """The same with every float to five places."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def gain(row: dict[str, Any]) -> float:
    """Bits that one guess gains over naming the most frequent token of these texts every time."""
    return min_entropy_leakage(row["ceiling"]["accuracy"], row["ceiling"]["guess"])


def span(row: dict[str, Any], mean: str) -> str:
    """A figure with its interval."""
    return f"{row[mean]:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def render(r: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = sorted(r["rows"], key=lambda x: (CODECS.index(x["codec"]), x["depth"]))
    where, cut = lambda x: [x["depth"], f"`{x['codec']}`"], ["layers before the cut", "codec"]  # noqa: E731
    whole = [x["bits"][0] for x in rows]
    secret = common.table(
        [*cut, "secret", "attack", "drawn with, bits", "read, bits (95 %)", "crossed at least, bits"],
        [[*where(x), s["secret"], s["attack"], f"{s['entropy']:.2f}", span(s, "bits"), f"{s['at_least']:.2f}"]
         for x in rows for s in x["secrets"]],
    )  # fmt: skip
    ceiling = common.table(
        [*cut, "read, bits a token (95 %)", "can cross, bits a token", "tokens right", "no attack is right more often",
         "left open at most (Fano), bits", "one guess gains, bits"],
        [[*where(x), span(x["bits"][0], "bits"), f"{x['ceiling']['capacity']:,.0f}", f"{x['ceiling']['accuracy']:.1%}",
          f"{x['ceiling']['best']:.0%}", f"{x['ceiling']['left']:.2f}", f"{gain(x):.2f}"]
         for x in rows],
    )  # fmt: skip
    size = common.table(
        [*cut, "calibrated on", "asked for", "held the truth (95 %)", "median size", "mean size", "texts differ"],
        [[*where(x), s["calibrated"], f"{s['level']:.0%}",
          f"{s['coverage']:.1%} ({s['low']:.1%} to {s['high']:.1%})", f"{s['median']:g}", f"{s['mean']:,.1f}",
          "yes" if s["drifted"] else "no"] for x in rows for s in x["sets"]],
    )  # fmt: skip
    group = common.table(
        [*cut, "tokens", "H0, bits", "read, bits (95 %)", "share", "right", "number"],
        [[*where(x), g["group"] or "all", f"{g['H0']:.2f}", span(g, "bits"), f"{g['share']:.1%}",
          f"{g['accuracy']:.1%}", g["tokens"]] for x in rows if x["codec"] in SHOWN for g in x["bits"]],
    )  # fmt: skip
    number = rows[0]["secrets"][0]["secrets"]
    return (
        f"`smollm2`, observer `{OBSERVER}`, who knows the public weights, the template, the codec and the cut. "
        f"{sum(x['cpu_seconds'] for x in rows) / 60:.0f} CPU-minutes for {len(rows)} "
        f"of {len(DEPTHS) * len(CODECS)} pairs of depth and codec (the command goes on with the others).\n\n"
        f"**Secrets**: {number} of each kind, one a prompt, drawn with equal chance from a public list (a PIN of "
        "10,000, a name of 128, a code of 32^6), so their entropy is exact. The bits read are a lower bound on what "
        "crossed in expectation, the last column is one with confidence. The attacker knows the sentence around the "
        "secret, the list, and how many tokens the secret has. Interval: bootstrap over secrets. The last column holds "
        "for each row by itself with 95 % confidence, by Hoeffding's inequality: it assumes nothing but independent "
        "draws, and with so few of them that costs several "
        "bits. `VocabMatch` says tokens only: its guess stands for 99 %, so it reads a little less than was drawn even "
        "where it is always right.\n\n"
        f"{secret}\n\n"
        f"**Texts**: {whole[0]['documents']} prompts of at most {LONGEST} tokens and {REPLY} tokens of each reply, "
        f"{whole[0]['tokens']:,} tokens in all, read by `PrototypeLDA`; intervals draw prompts again. A token costs "
        f"{whole[0]['H0']:.2f} bits one who knows how often words occur, {r['expected']:.2f} one who has read the text "
        "so far. What can cross is counted from payloads of one token: "
        f"{min(x['ceiling']['capacity'] for x in rows):,.0f} bits at the least, and a ceiling forbids something only "
        "where it lies below a token's entropy. What is left open at most is Fano's inequality for the very share of "
        "tokens that was right: a point estimate, which does not say how much other texts would differ.\n\n"
        f"{ceiling}\n\n"
        f"By kind of token (the first {EARLY} of a prompt begin it; the {COMMON} most frequent tokens of the "
        "attacker's own text, others that it has, and those that it never has):\n\n"
        f"{group}\n\n"
        "**Candidate sets**: for every token of every second prompt of each domain, the tokens that `PrototypeLDA` "
        "does not rule out. The threshold is from the attacker's own text, or from the other prompts, which attackers "
        "seldom have. Where over 95 % of the guesses are right, one token is a set that holds the truth more often "
        "than asked for; elsewhere it may be held less often, because the threshold is from other texts: own text of "
        "one kind, or a few prompts, whose tokens resemble each other.\n\n"
        f"{size}"
    )


def main() -> None:
    """Measure, save after every depth and codec, report."""
    parser = common.options(__doc__)
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--depths", type=int, nargs="*", help="only these")
    parser.add_argument("--codecs", nargs="*", help="only these")
    args = parser.parse_args()
    common.one_thread()
    path = common.RESULTS / f"leakage{'-quick' if args.quick else ''}.json"
    kept = json.loads(path.read_text("utf-8")) if path.exists() and not (args.fresh or args.quick) else {"rows": []}
    kept = {name: kept[name] for name in ("rows", "expected") if name in kept}

    def save() -> None:
        common.RESULTS.mkdir(exist_ok=True)
        path.write_text(
            json.dumps({"name": "leakage", "quick": args.quick, "machine": common.machine(), **kept}, indent=1) + "\n",
            "utf-8",
        )

    measure(args, kept, save)
    common.finish("leakage", args, kept, render(kept))


if __name__ == "__main__":
    main()
