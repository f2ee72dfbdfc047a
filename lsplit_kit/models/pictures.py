"""Pipelines by name, and only the denoiser of one, for a host."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import diffusers
import torch

from ..errors import FingerprintMismatch, WeightsError
from ..split.image import part_of, picture_body, picture_cut
from ..split.picture_host import PictureBody
from .hush import hushed
from .load import align_
from .names import EMOJI, SHIPPED, number_format, resolve
from .toy_pipes import build_toy_pipe, toy_pipe_names


def load_pipe(name_or_path: str | os.PathLike[str], dtype: torch.dtype | str = torch.float32) -> Any:
    """The pipeline of a short name or a folder, weights 64-byte aligned, in eval mode; raises WeightsError."""
    name, dtype = resolve(name_or_path)[0], number_format(dtype)
    if name in toy_pipe_names():
        with hushed():
            pipe = build_toy_pipe(name, dtype)
    else:
        index, options = _index(name), dict(dtype=dtype, local_files_only=True)
        if "safety_checker" in index:
            options["safety_checker"] = None
        try:
            with hushed():  # importing a pipeline names packages that are not needed
                cls = getattr(diffusers, str(index.get("_class_name")), diffusers.DiffusionPipeline)
            with hushed() if name == EMOJI else nullcontext():
                pipe = cls.from_pretrained(_folder(name), **options)
        except Exception as error:
            raise WeightsError(f"The pipeline {name} cannot be loaded ({type(error).__name__}).") from error
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            align_(part.eval())
    pipe.lsplit_name = name
    return pipe


def load_denoiser(name_or_path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Any:
    """Only the U-Net or transformer of a pipeline: no VAE, no text encoder, no tokenizer is read."""
    name = resolve(name_or_path)[0]
    if name in toy_pipe_names():
        pipe = build_toy_pipe(name, dtype)
        return align_(getattr(pipe, part_of(pipe)).eval())
    index = _index(name)
    part = next((p for p in ("unet", "transformer") if index.get(p, [None])[0]), None)
    if part is None:
        raise WeightsError(f"The pipeline {name} has neither a unet nor a transformer.")
    try:
        with hushed() if name == EMOJI else nullcontext():
            cls = getattr(diffusers, index[part][1])
            return align_(cls.from_pretrained(_folder(name) / part, dtype=dtype, local_files_only=True).eval())
    except Exception as error:
        raise WeightsError(f"The {part} of {name} cannot be loaded ({type(error).__name__}).") from error


def load_picture_body(name_or_path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> HeldPicture:
    """The whole denoiser of a pipeline, for a host, which also serves the middle of it."""
    return HeldPicture(load_denoiser(name_or_path, dtype), resolve(name_or_path)[0])


class HeldPicture(PictureBody):
    """A host's denoiser, which also serves its blocks [start, stop) to clients that keep the ends."""

    def __init__(self, denoiser: Any, name: str) -> None:
        whole = picture_body(denoiser, picture_cut(denoiser, "denoiser", 0, 0), name)
        super().__init__(whole.run, whole.arguments, whole.info)
        self.denoiser, self.name = denoiser, name

    def sub(self, start: int, stop: int) -> PictureBody:
        """The body of parts [start, stop), sharing weights and the compute lock."""
        last = self.info.stop - 1
        inside = 1 <= start < stop <= last
        if hasattr(self.denoiser, "down_blocks"):
            inside = inside and start + stop == last + 1 and start <= last // 2 - 1
        if not inside:
            raise FingerprintMismatch(f"Parts [{start}, {stop}) are not blocks that this denoiser can be cut at.")
        part = picture_body(self.denoiser, (start, stop), self.name)
        return PictureBody(part.run, part.arguments, part.info._replace(holds=self.info.holds), self._lock)


def _folder(name: str) -> Path:
    return SHIPPED if name == EMOJI else Path(name).expanduser()


def _index(name: str) -> dict[str, Any]:
    try:
        return json.loads((_folder(name) / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name} is no readable pipeline folder ({type(error).__name__}).") from error
