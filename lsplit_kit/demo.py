"""The demonstration behind `lsplit demo`: one prompt, unsplit and split over a real host, compared and counted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from .errors import UnsupportedOption
from .models.names import check_plan, is_picture

Write = Callable[[str], None]


def run_demo(
    prompt: str, name: str, head: int, tail: int, new_tokens: int, codec: str | None = None, write: Write | None = None
) -> dict[str, Any]:
    """Generate greedily twice and return the report; `write` receives the streamed answer and progress lines."""
    import lsplit_kit as lk

    say = write or (lambda text: None)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if not prompt.strip():
        raise UnsupportedOption("The prompt is empty; give the model at least one word.")
    if is_picture(name):
        raise UnsupportedOption(f"{name} draws pictures; ask for one with lsplit demo --image TEXT --model {name}.")
    check_plan(name, head, tail)
    if codec is not None:
        lk.codec(codec)
    say(f"loading {name} ...\n")
    model, tok = lk.load(name)
    ids = encode(tok, prompt)
    options = {"max_new_tokens": new_tokens, "do_sample": False}
    say("starting a host for its body ...\n")
    with lk.host(name, head=head, tail=tail) as host:
        split = lk.split(model, head=head, tail=tail, body=host.address, codec=codec)
        say(f"{name}, {split.plan}; body in process {host.pid} at {host.address}\n> {prompt}\n")
        with lk.tap(split) as wire:
            ours, split_s = timed(split, ids, {**options, "streamer": streamer(tok, say)} if write else options)
        report = {"host_pid": host.pid, "host_holds": [int(x) for x in host.holds]}
        split.close()
    say("now the unsplit model, for comparison ...\n")
    whole, unsplit_s = timed(model, ids, options)
    count = ours.shape[1] - ids["input_ids"].shape[1]
    totals = wire.totals()
    no_cache = without_cache(split, ids["input_ids"].shape[1], count)
    payload = int(totals["payload"].sum())
    return {
        "model": name,
        "plan": {
            "head": head,
            "tail": tail,
            "layers": split.config.num_hidden_layers - 1 + host.holds[1] - host.holds[0],
        },
        "prompt_tokens": ids["input_ids"].shape[1],
        "new_tokens": count,
        "tokens_identical": bool(torch.equal(ours, whole)),
        "bytes": {d: {k: int(totals.loc[d, k]) for k in ("tensor", "payload", "frame")} for d in ("up", "down")},
        "no_cache_payload_bytes": no_cache,
        "reduction": 1 - payload / no_cache,
        "tokens_per_s": {"split": count / split_s, "unsplit": (whole.shape[1] - ids["input_ids"].shape[1]) / unsplit_s},
        **report,
    }


def encode(tok: Any, prompt: str) -> dict[str, torch.Tensor]:
    """Token ids of a prompt, in the model's chat form where it has one."""
    if getattr(tok, "chat_template", None):
        turn = [{"role": "user", "content": prompt}]
        return dict(tok.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True))
    ids = tok(prompt, return_tensors="pt")
    return {k: ids[k] for k in ("input_ids", "attention_mask")}


def streamer(tok: Any, write: Write) -> Any:
    """A transformers streamer that hands finished words to `write`."""
    from transformers import TextStreamer

    class Writer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            write(text + ("\n" if stream_end else ""))

    return Writer(tok, skip_prompt=True, skip_special_tokens=True)


def timed(model: Any, ids: dict[str, torch.Tensor], options: dict[str, Any]) -> tuple[torch.Tensor, float]:
    """(token ids, seconds) of one generation."""
    begin = time.perf_counter()
    return model.generate(**ids, **options), time.perf_counter() - begin


def without_cache(model: Any, prompt: int, new: int) -> int:
    """Payload bytes, up and down, had every vector been sent again for every token: N*P + N(N-1)/2 vectors each way."""
    width = model.link.info.width
    return sum(
        c.payload_bytes((1, new * prompt + new * (new - 1) // 2, width)) for c in (model.remote.up, model.remote.down)
    )


def report_lines(r: dict[str, Any]) -> list[str]:
    """The report as a person reads it."""
    up, down = r["bytes"]["up"], r["bytes"]["down"]
    first, stop = r["host_holds"]
    rows = [f"  {d:<5}{b['tensor']:>12,}{b['payload']:>12,}{b['frame']:>12,}" for d, b in (("up", up), ("down", down))]
    rate = r["tokens_per_s"]
    return [
        "",
        f"tokens identical to the unsplit model: {'yes' if r['tokens_identical'] else 'NO'}",
        f"the host (pid {r['host_pid']}) held decoder layers {first}-{stop - 1} and nothing else of the model",
        f"bytes  {'tensor':>10}{'payload':>12}{'frame':>12}   "
        f"({r['prompt_tokens']} prompt + {r['new_tokens']} new tokens)",
        *rows,
        f"without the cache the payload would be {r['no_cache_payload_bytes']:,} bytes: the cache saves "
        f"{r['reduction']:.1%} at this length",
        f"tokens/s: {rate['split']:.1f} split, {rate['unsplit']:.1f} unsplit (one thread a process)",
    ]
