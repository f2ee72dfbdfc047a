"""A capture of many prompts with its truth sealed, for attacks to be measured on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedOption
from ..progress import progress
from ..wire.capture import Capture
from ..wire.tap import Crossing, tap


def record(
    lm: Any,
    prompts: Sequence[str],
    *,
    chat: bool = True,
    new_tokens: int = 0,
    longest: int | None = None,
    **options: Any,
) -> Capture:
    """Run every prompt through a split model, one session each, and seal the truth; raises UnsupportedOption.

    chat: each as a user's message under the tokenizer's template, if it has one. new_tokens: of a reply (0: the prompt
    only). longest: prompts are cut to so many tokens. options: as for `generate`. Where a prompt has several rows, as
    with num_beams, each is a text of the truth: what the row holds at the end, and the rest of a returned text that
    goes on like that.
    """
    if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) and p for p in prompts):
        raise UnsupportedOption("record takes a list of prompts, each a text with at least one character.")
    tok = lm.lsplit_tokenizer()
    before, after = template(tok) if chat else (empty(), empty())
    rows: dict[str, list[Tensor]] = {"ids": [], "length": [], "first": [], "stop": [], "reply": [], "prompt": []}
    with tap(lm) as wire, torch.inference_mode():
        for number, prompt in enumerate(progress(prompts, "prompts", least=20)):
            ids = tok(prompt, return_tensors="pt", add_special_tokens=not len(before))["input_ids"][0][:longest]
            whole = torch.cat([before, ids, after])
            stop = len(before) + len(ids)
            texts = [whole]
            if new_tokens:
                settings = {"do_sample": False, "pad_token_id": tok.pad_token_id or tok.eos_token_id, **options}
                texts = said(lm, whole, {"max_new_tokens": new_tokens, **settings})
            else:
                lm(whole[None])
            for text in texts:
                bounds = {"length": len(text), "first": len(before), "stop": stop, "reply": stop + len(after)}
                rows["ids"].append(text)
                for name, value in {**bounds, "prompt": number}.items():
                    rows[name].append(torch.tensor([value]))
    return wire.capture({name: torch.cat(parts) for name, parts in rows.items()})


def said(lm: Any, ids: Tensor, options: dict[str, Any]) -> list[Tensor]:
    """The text [T] of every row that `generate` makes of one prompt [n], in the order of the rows on the wire."""
    config = options.get("generation_config") or lm.generation_config
    several = any((options.get(n) or getattr(config, n, 1) or 1) > 1 for n in ("num_beams", "num_return_sequences"))
    if not several:
        return [lm.generate(ids[None], **options)[0]]
    held = ids[None]

    def look(now: Tensor, scores: Tensor) -> Tensor:
        nonlocal held
        held = now.clone()  # what has gone up by now, row by row
        return scores

    also = [*(options.get("logits_processor") or ()), look]
    out = lm.generate(ids[None], **{**options, "logits_processor": also})
    texts = []
    for row, text in enumerate(held):
        goes_on = (other for other in (*out[row : row + 1], *out) if torch.equal(other[: len(text)], text))
        texts.append(next(goes_on, text))
    return texts


def noisy(capture: Capture, sigma: float, seed: int = 0) -> Capture:
    """The capture, had the local side added fresh Gaussian noise to what went up; raises UnsupportedOption.

    sigma: its standard deviation, in units of the RMS of the vectors that went up, those of position 0 left out, which
    may be many times as long. Vectors have to have crossed as they were (fp32); replies are those without noise.
    """
    if not sigma >= 0 or math.isinf(sigma) or capture.manifest["up"] != "fp32":
        raise UnsupportedOption(
            f"noisy takes a sigma of 0 or more and vectors that went up as fp32, got {sigma!r} and "
            f"{capture.manifest['up']!r}."
        )
    heard = [c.up for c in capture.view("eavesdrop_up").conversations()]
    rms = float(torch.cat([h.vectors[h.positions > 0] for h in heard]).square().mean().sqrt())
    draw = torch.Generator().manual_seed(seed)

    def louder(c: Crossing) -> Crossing:
        if c.direction != "up" or c.name != "hidden":
            return c
        clean = torch.from_numpy(np.frombuffer(c.data, "<f4").copy())
        return c._replace(data=(clean + sigma * rms * torch.randn(clean.shape, generator=draw)).numpy().tobytes())

    return replace(capture, crossings=tuple(map(louder, capture.crossings)))


def template(tok: Any) -> tuple[Tensor, Tensor]:
    """The token ids that a chat template puts before and behind a user's message; both empty where there is none."""
    if not getattr(tok, "chat_template", None):
        return empty(), empty()
    mark = "lorem"
    said = tok.apply_chat_template([{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True)
    before, found, after = said.rpartition(mark)
    if not found:
        return empty(), empty()
    return tuple(tok(part, return_tensors="pt", add_special_tokens=False)["input_ids"][0] for part in (before, after))  # type: ignore[return-value]


def empty() -> Tensor:
    """No token."""
    return torch.empty(0, dtype=torch.long)
