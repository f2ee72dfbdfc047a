"""A capture of many pictures with their truth sealed, for attacks to be measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedOption
from ...progress import progress
from ...split.image import part_of
from ...wire.capture import Capture
from ...wire.tap import tap
from .base import drawer, picture_knowledge


def record_picture(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int] | int = 0, *, steps: int = 20, **options: Any
) -> Capture:
    """Draw every prompt with a split pipeline, one session each, and seal the truth; raises UnsupportedOption.

    seeds: one for each prompt, or the first of as many. options: as for the pipeline, such as guidance_scale.
    The truth: `latent` [n, C, h, w] and `picture` (uint8 [n, H, W, 3]) as they are finished, `reads` [n, S, C, h, w],
    what the denoiser read at each call, `embeddings` [n, T, d], and the prompts' tokens as `record` keeps them. The
    guidance scale is in the manifest where it crosses, which is where the host guides.
    """
    if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) and p for p in prompts):
        raise UnsupportedOption("record_picture takes a list of prompts, each a text with at least one character.")
    seeds = range(seeds, seeds + len(prompts)) if isinstance(seeds, int) else seeds
    if len(seeds) != len(prompts):
        raise UnsupportedOption(f"There are {len(prompts)} prompts and {len(seeds)} seeds.")
    draw, denoiser = drawer(picture_knowledge(pipe)), getattr(pipe, part_of(pipe))
    truth: dict[str, list[Tensor]] = {}
    heard: list[tuple[Tensor, Tensor | None]] = []

    def hear(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        read: Any = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        heard.append((read.detach().clone(), kwargs.get("encoder_hidden_states")))

    quiet = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**quiet, "disable": True})
    hook = denoiser.register_forward_pre_hook(hear, with_kwargs=True)
    try:
        with tap(pipe) as wire:
            rows = list(zip(prompts, seeds, strict=True))
            for prompt, seed in progress(rows, "pictures", least=10):
                heard.clear()
                draws = torch.Generator().manual_seed(seed)
                call = {"num_inference_steps": steps, **options, "generator": draws, "output_type": "latent"}
                latent = torch.as_tensor(pipe(prompt, **call).images)[:1]
                found = {"latent": latent, "picture": torch.from_numpy(draw(latent)), **_tokens(pipe, prompt)}
                found["reads"] = torch.stack([read[0] for read, _ in heard])[None]
                text = heard[0][1]
                if text is not None:
                    found["embeddings"] = text[-1:].detach()
                for name, tensor in found.items():
                    truth.setdefault(name, []).append(tensor)
    finally:
        hook.remove()
        pipe.set_progress_bar_config(**quiet)
    capture = wire.capture({name: torch.cat(parts) for name, parts in truth.items()})
    at_host = pipe.remote.policy == "lockstep" or getattr(denoiser, "guidance", "local") == "host"
    scale = pipe.plain_guidance() if at_host else None
    return capture if scale is None else replace(capture, manifest={**capture.manifest, "guidance": scale})


def _tokens(pipe: Any, prompt: str) -> dict[str, Tensor]:
    """The prompt's tokens, padded as the encoder reads them, and where the words begin and end."""
    tok = pipe.tokenizer
    made = tok(prompt, padding="max_length", max_length=tok.model_max_length, truncation=True, return_tensors="pt")
    ids, used = made["input_ids"][0], int(made["attention_mask"].sum())
    first = int(ids[0] == (tok.bos_token_id if tok.bos_token_id is not None else -1))
    bounds = {"length": len(ids), "first": first, "stop": used - 1, "reply": len(ids)}
    return {"ids": ids, **{name: torch.tensor([number]) for name, number in bounds.items()}}
