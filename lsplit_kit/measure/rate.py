"""What a codec costs and what it loses: bits a value against signal to noise, and the real tensors to try it on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from ..errors import UnsupportedOption
from ..quantization import Encoded, lossless
from ..quantization import codec as codec_of
from ..wire.tap import Crossing

if TYPE_CHECKING:
    from PIL.Image import Image

DB_A_BIT = 20 * math.log10(2)  # 6.02: what one more bit a value is worth on Shannon's line


class RatePoint(TypedDict):
    """A codec's place on the rate-distortion plane: bits a value, SNR in dB, and Shannon's bits at that SNR."""

    codec: str
    bits: float
    snr_db: float
    shannon: float


def rate_point(spec: str, *sessions: Tensor | Sequence[Tensor]) -> RatePoint:
    """Bits a value (payload, scales included) and signal to noise in dB of a codec on tensors; raises CodecError.

    A session is one tensor or several in the order in which they cross: a codec with `+delta` predicts inside it. The
    signal is each tensor's variance. `shannon` is the least that independent Gaussian values need at the same squared
    error, 0.5 log2(signal / error) (Shannon 1959), never below 0. Without an error both are infinite.
    """
    size, count, error, power = 0, 0, 0.0, 0.0
    for session in sessions:
        coder = codec_of(spec).coder()
        for tensor in [session] if isinstance(session, Tensor) else session:
            coded = coder.encode(tensor)
            size, count = size + 8 * len(coded.payload), count + tensor.numel()
            exact = tensor.detach().cpu().double()
            error += float((coder.again(coded, torch.float32).double() - exact).square().sum())
            power += float((exact - exact.mean()).square().sum())
    if not count:
        raise UnsupportedOption("Give at least one tensor with values, for example rate_point('int8', noise).")
    ratio = math.inf if not error else power / error
    return RatePoint(
        codec=spec,
        bits=size / count,
        snr_db=10 * math.log10(ratio) if ratio else -math.inf,
        shannon=max(0.0, 0.5 * math.log2(ratio)) if ratio else 0.0,
    )


def levels_of(spec: str, values: Tensor) -> np.ndarray:
    """The values that a tensor has after the codec, sorted, each once, float32 [levels]; raises CodecError."""
    codec = codec_of(spec)
    return np.unique(codec.decode(codec.encode(values)).numpy())


def bits_a_value(crossings: Iterable[Crossing], direction: str) -> float:
    """Payload bits that a value of the coded tensors cost, going "up" or "down"; not a number where none crossed."""
    rows = [c for c in crossings if c.direction == direction and c.codec and not c.codec.startswith("raw:")]
    values = sum(math.prod(c.shape) for c in rows)
    return 8 * sum(c.payload for c in rows) / values if values else math.nan


class PictureRun(NamedTuple):
    """A picture, the noise [1, C, h, w] of every step as it came down, its payload bytes and bits a value."""

    picture: Image
    noise: list[Tensor]
    payload: int
    bits: float


def picture_run(
    pipe: Any, prompt: str, seed: int = 0, steps: int = 20, guidance_scale: float = 3.0, codec: str | None = None,
    note: Callable[[int, int], None] | None = None, **call: Any,
) -> PictureRun:  # fmt: skip
    """Make one picture whose denoiser answers through a codec (None: lossless), in this process.

    Guidance is applied before the noise crosses, where the pipeline guides by the plain formula. note: called after
    every step with its number and how many there are; what it raises ends the run. call: further arguments.
    """
    from ..split.image import PLAIN_GUIDANCE, part_of, picture_body, picture_cut, split_image
    from ..wire.here import InProcess
    from ..wire.tap import tap

    denoiser = getattr(pipe, part_of(pipe))
    name = getattr(pipe, "lsplit_name", None) or type(pipe).__name__
    link = InProcess(picture_body(denoiser, picture_cut(denoiser, "denoiser", 0, 0), name))
    plain = any(cls.__name__ in PLAIN_GUIDANCE for cls in type(pipe).__mro__)
    exact = lossless(denoiser.dtype)
    guidance = "host" if plain else "local"
    split = split_image(pipe, "denoiser", 0, 0, link, "per_step", guidance, exact, codec or exact)
    split.set_progress_bar_config(**{**getattr(pipe, "_progress_bar_config", {}), "disable": True})
    asked = {
        "prompt": prompt, "num_inference_steps": steps, "guidance_scale": guidance_scale,
        "generator": torch.Generator().manual_seed(seed), **step_hook(type(pipe), note, split.scheduler), **call,
    }  # fmt: skip
    takes = inspect.signature(type(pipe).__call__).parameters
    with split, tap(split) as wire:
        image = split(**{key: value for key, value in asked.items() if key in takes}).images[0]
    rows = [c for c in wire.crossings if c.direction == "down" and c.name == "out"]
    coder = codec_of(codec or exact).coder()
    noise = [coder.decode(Encoded(c.codec, c.shape, c.data)) for c in rows]
    return PictureRun(image, noise, sum(c.payload for c in rows), bits_a_value(rows, "down"))


def step_hook(kind: type, note: Callable[[int, int], None] | None, scheduler: Any) -> dict[str, Any]:
    """The arguments with which a pipeline of this class calls `note(step, of)` after every step, from 1."""
    if note is None:
        return {}
    count = iter(range(1, 1 << 30))

    def stepped(*_: Any, **__: Any) -> dict[str, Any]:
        note(next(count), len(scheduler.timesteps))
        return {}

    if "callback_on_step_end" in inspect.signature(kind.__call__).parameters:
        return {"callback_on_step_end": stepped}
    return {"callback": stepped, "callback_steps": 1}  # older pipelines


def noise_of(pipe: Any, prompt: str, seed: int = 0, steps: int = 20, guidance_scale: float = 3.0) -> list[Tensor]:
    """The guided noise [1, C, h, w] that comes down at every step of one picture, before any codec."""
    return picture_run(pipe, prompt, seed, steps, guidance_scale).noise


@torch.no_grad()
def hidden_of(model: Any, ids: Tensor, head: int = 2, tail: int = 2) -> tuple[Tensor, Tensor]:
    """The hidden tensors [1, T, d] that go up and come down while a language model reads ids [1, T], before any codec.

    Raises PlanError and UnsupportedModel.
    """
    from ..split.body import body_of
    from ..split.plan import SplitPlan
    from ..split.text import split_text
    from ..wire.here import InProcess
    from ..wire.tap import tap

    plan, exact = SplitPlan(head, tail), lossless(model.dtype)
    split = split_text(model, plan, InProcess(body_of(model, plan)), "kv", exact, exact)
    with split, tap(split) as wire:
        split(ids)
    found = {c.direction: codec_of(exact).decode(Encoded(c.codec, c.shape, c.data)) for c in wire.crossings if c.data}
    return found["up"], found["down"]
