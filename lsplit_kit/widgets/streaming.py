"""Generating in a thread: a streamer that counts, a criterion that stops, and a result that is never a traceback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import TextStreamer

from ..errors import LsplitError, UnsupportedOption
from ..wire.tap import tap


@dataclass
class Progress:
    """Where a run stands: text so far, prompt and new tokens, vectors that crossed each way, payload bytes (up, down),
    whether a chat template was put around the prompt, and the error's sentence if any.
    """

    text: str = ""
    prompt: int = 0
    tokens: int = 0
    vectors: int = 0
    up: int = 0
    down: int = 0
    template: bool = False
    cancelled: bool = False
    error: str = ""

    @property
    def traffic(self) -> str:
        """Tokens, vectors and bytes so far, in words."""
        each, rest = divmod(self.up, max(self.vectors, 1))
        if self.up == self.down and not rest:
            cost = f"{self.vectors:,} vectors x {each:,} B up and down"
        else:
            cost = f"{self.vectors:,} vectors, {self.up:,} B up and {self.down:,} B down"
        return f"{self.prompt:,} prompt + {self.tokens:,} new tokens: {cost}"


class Stop(StoppingCriteria):
    """Stops after the token during which `event` was set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Boolean [B]: True for every row once the event is set."""
        return torch.full((input_ids.shape[0],), self.event.is_set(), dtype=torch.bool, device=input_ids.device)


class Streamer(TextStreamer):
    """Hands on text as it becomes final, and calls `note` after every token."""

    def __init__(self, tokenizer: Any, progress: Progress, note: Callable[[], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.progress, self.note = progress, note

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt first, then every new token."""
        prompt = self.next_tokens_are_prompt
        super().put(value)
        if not prompt:
            self.progress.tokens += value.numel()
        self.note()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take the next words."""
        self.progress.text += text


def encode(tokenizer: Any, prompt: str) -> dict[str, torch.Tensor]:
    """Token ids and mask [1, T] of a prompt, through the chat template where the tokenizer has one."""
    if tokenizer is None:
        raise UnsupportedOption("This model came without a tokenizer; load it with lk.load().")
    if getattr(tokenizer, "chat_template", None):
        chat = [{"role": "user", "content": prompt}]
        batch = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    else:
        batch = tokenizer(prompt, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}


def generate(
    make: Callable[[], Any], tokenizer: Any, prompt: str, tokens: int, stop: threading.Event,
    report: Callable[[Progress], None],
) -> Progress:  # fmt: skip
    """Split with `make`, generate greedily, and `report` after every token; an error ends up in Progress.error."""
    progress, model = Progress(), None
    try:
        batch = encode(tokenizer, prompt)
        progress.prompt = batch["input_ids"].numel()
        progress.template = bool(getattr(tokenizer, "chat_template", None))
        model = make()
        with tap(model) as wire:

            def note() -> None:
                steps = [c for c in wire.crossings if c.shape]
                progress.vectors = sum(c.shape[0] * c.shape[1] for c in steps if c.direction == "up")
                progress.up = sum(c.payload for c in steps if c.direction == "up")
                progress.down = sum(c.payload for c in steps if c.direction == "down")
                report(progress)

            with torch.no_grad():
                model.generate(
                    **batch, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id,
                    streamer=Streamer(tokenizer, progress, note), stopping_criteria=StoppingCriteriaList([Stop(stop)]),
                )  # fmt: skip
    except Exception as error:  # whatever it is, a panel shows a sentence
        progress.error = sentence(error)
    finally:
        if model is not None:
            model.close()
    progress.cancelled = stop.is_set() and not progress.error
    return progress


def sentence(error: Exception) -> str:
    """An error in one line: the kit's own words, or the name and the first line of any other."""
    first = next(iter(str(error).splitlines()), "").strip()
    if isinstance(error, LsplitError):
        return first
    return f"{type(error).__name__}: {first}" if first else f"The run failed with {type(error).__name__}."
