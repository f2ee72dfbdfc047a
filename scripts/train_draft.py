"""Train the small net that drafts tokens from the local ends of a split model (`lk.speculate(lm, "head")`).

    python scripts/train_draft.py --model smollm2 --out lsplit_kit/split/drafts/smollm2.safetensors

It learns from the model itself: the vectors that its LM head reads, on the kit's calibration texts and on replies that
the model makes to the beginnings of these texts. What it is taught is the model's own prediction, so no labels are
needed. `--data FILE` keeps the vectors, so that a second run need not make them again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

import lsplit_kit as lk
from lsplit_kit.measure.corpus import DOMAINS, corpus, turns, windows
from lsplit_kit.split.ahead import BINS, Cell, write
from lsplit_kit.split.calibrated import facts_of

WIDE, ROWS, UNROLL, BATCH, PROMPT, REPLY, ROW_BATCH = 768, 4096, 2, 256, 32, 112, 32
Run = tuple[np.ndarray, np.ndarray, np.ndarray]  # token ids [N], vectors [N, d], the model's next token [N]


def runs_of(model: Any, tok: Any, part: str, batches: int) -> list[Run]:
    """What the LM head reads while the model reads the texts and while it answers them."""
    seen: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    rows, found = model.get_output_embeddings().weight, []
    with torch.inference_mode():
        for domain in DOMAINS:
            for piece in windows(tok, domain, part):
                seen.clear()
                best = model(piece[None]).logits[0].argmax(-1)
                found.append(tuple(x.numpy() for x in (piece.int(), seen[0][0].half(), best.int())))
            print(f"read {domain}", flush=True)
        prompts = beginnings(tok, part)
        order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(0)).tolist()
        order = sorted(order[: ROW_BATCH * batches], key=lambda i: len(prompts[i]))
        torch.manual_seed(1)
        for first in range(0, len(order), ROW_BATCH):
            ids = tok.pad({"input_ids": [prompts[i].tolist() for i in order[first : first + ROW_BATCH]]},
                          return_tensors="pt", padding_side="left")  # fmt: skip
            seen.clear()
            draw = (
                {"do_sample": True, "temperature": 0.7, "top_k": 0} if first // ROW_BATCH % 2 else {"do_sample": False}
            )
            out = model.generate(**ids, max_new_tokens=REPLY, pad_token_id=tok.pad_token_id, **draw)
            hidden = torch.cat([s[:, -1:] for s in seen], dim=1)
            best = nn.functional.linear(hidden, rows).argmax(-1)
            start = ids["input_ids"].shape[1] - 1
            for row, said in enumerate(out):
                ends = (said[start + 1 :] == tok.eos_token_id).nonzero()
                n = int(ends[0]) + 1 if len(ends) else hidden.shape[1]
                found.append((said[start : start + n].int().numpy(), hidden[row, :n].half().numpy(),
                              best[row, :n].int().numpy()))  # fmt: skip
            print(f"answered {first + ROW_BATCH} of {len(order)}", flush=True)
    hook.remove()
    return found


def beginnings(tok: Any, part: str) -> list[Tensor]:
    """Prompts [T]: the first tokens of passages, and dialogues up to one of the user's turns."""
    found = []
    for domain in DOMAINS:
        if domain == "chat" and tok.chat_template:
            for talk in map(turns, corpus(domain, part)):
                for end in range(1, len(talk) + 1, 2):
                    ids = tok.apply_chat_template(talk[:end], add_generation_prompt=True, return_dict=False)
                    found.append(torch.tensor(ids)[-5 * PROMPT :])
        else:
            found += [p[:PROMPT] for p in windows(tok, domain, part, 3 * PROMPT) if len(p) >= PROMPT]
    return found


def samples(runs: list[Run]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(vectors [N, d], tokens [N], predictions [N], starts [M]): UNROLL positions of its run follow a start."""
    starts, at = [], 0
    for ids, _, _ in runs:
        starts.append(torch.arange(at, at + max(0, len(ids) - UNROLL)))
        at += len(ids)
    vectors, tokens, best = (torch.from_numpy(np.concatenate([r[i] for r in runs])) for i in (1, 0, 2))
    return vectors, tokens.long(), best.long(), torch.cat(starts)


def unrolled(cell: Cell, data: tuple, at: Tensor, embed: Tensor, rows: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For each step ahead: scores of the shortlist [n, R], which starts count [n], and where they are [n]."""
    vectors, tokens, best, _ = data
    state, counts, out = cell.entered(vectors[at].float()), torch.ones(len(at), dtype=torch.bool), []
    for step in range(1, UNROLL + 1):
        state = cell(state, embed[tokens[at + step]])
        if step > 1:  # a draft is only of use where the one before it was right
            counts = counts & (best[at + step - 1] == tokens[at + step])
        out.append((cell.scores(state, rows), counts, at + step))
    return out


def train(model: Any, runs: list[Run], held: list[Run], steps: int) -> tuple[Cell, Tensor, list[list[float]], dict]:
    """The net, its shortlist [R], how often a guess of each certainty was right, and what it reached on held texts."""
    head, embed = model.get_output_embeddings().weight.detach(), model.get_input_embeddings().weight.detach()
    data = samples(runs)
    counts = torch.bincount(torch.cat([data[1], data[2]]), minlength=len(head))
    shortlist = counts.topk(min(ROWS, len(head))).indices.sort().values
    rows = head[shortlist].clone()
    torch.manual_seed(0)
    cell = Cell(head.shape[1], WIDE)
    print(f"{len(data[3]):,} starts; the shortlist holds {float(torch.isin(data[2], shortlist).float().mean()):.1%}")
    steps_an_epoch = len(data[3]) // BATCH
    optimizer = torch.optim.AdamW(cell.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    draw, order = torch.Generator().manual_seed(0), torch.empty(0, dtype=torch.long)
    for step in range(1, steps + 1):
        if len(order) < BATCH:
            order = data[3][torch.randperm(len(data[3]), generator=draw)]
        at, order = order[:BATCH], order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1, step / 100) * (0.5 + 0.5 * np.cos(np.pi * step / steps)) + 1e-6
        loss = torch.zeros(())
        for scores, right, where in unrolled(cell, data, at, embed, rows):
            with torch.no_grad():
                teacher = nn.functional.linear(data[0][where].float(), rows).softmax(-1)
            cross = -(teacher * scores.log_softmax(-1)).sum(-1)
            loss = loss + (cross * right).sum() / len(at)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(cell.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step} (epoch {step / steps_an_epoch:.2f}) loss {loss.item():.3f}", flush=True)
    bins, reached = judged(cell, samples(held), embed, rows, shortlist)
    print(reached)
    return cell, shortlist, bins, {**reached, "steps": steps}


@torch.no_grad()
def judged(cell: Cell, data: tuple, embed: Tensor, rows: Tensor, shortlist: Tensor) -> tuple[list[list[float]], dict]:
    """For each step ahead the share of right guesses by certainty [UNROLL][BINS], and over all."""
    sums = torch.zeros(UNROLL, 2, BINS)
    for at in data[3].split(1024):
        for step, (scores, counts, where) in enumerate(unrolled(cell, data, at, embed, rows)):
            sure, pick = scores.softmax(-1).max(-1)
            right = (shortlist[pick] == data[2][where]) & counts
            bin_of = (sure * BINS).long().clamp(max=BINS - 1)[counts]
            sums[step, 0] += torch.bincount(bin_of, right[counts].float(), BINS)
            sums[step, 1] += torch.bincount(bin_of, minlength=BINS)
    reached = {f"right_{i + 1}": round(float(s[0].sum() / s[1].sum()), 4) for i, s in enumerate(sums)}
    middle = (torch.arange(BINS) + 0.5) / BINS
    return ((sums[:, 0] + 4 * middle) / (sums[:, 1] + 4)).tolist(), reached


def main() -> None:
    """Collect, train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="file that keeps the vectors between runs")
    parser.add_argument("--steps", type=int, default=2100, help="batches to learn from")
    parser.add_argument("--batches", type=int, default=12, help="batches of 32 replies to make")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tok = lk.load(args.model)
    if args.data and args.data.exists():
        kept = torch.load(args.data, weights_only=False)
    else:
        kept = {"learn": runs_of(model, tok, "calibrate", args.batches), "held": runs_of(model, tok, "heldout", 3)}
        if args.data:
            torch.save(kept, args.data)
    cell, shortlist, bins, reached = train(model, kept["learn"], kept["held"], args.steps)
    facts = {**facts_of(model), "name": args.model, **reached}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(write(cell, shortlist, bins, facts))


if __name__ == "__main__":
    main()
