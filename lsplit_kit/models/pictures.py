"""Pipelines by name, and only the denoiser of one, for a host."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from safetensors import safe_open

from ..errors import FingerprintMismatch, UnsupportedModel, WeightsError
from ..split.fingerprint import digest, digests
from ..split.image import part_of, picture_body, picture_cut
from ..split.picture_host import PictureBody
from .hush import hushed
from .load import align_
from .names import EMOJI, SHIPPED, number_format, resolve
from .toy_pipes import build_toy_pipe, toy_pipe_names


def load_pipe(
    name_or_path: str | os.PathLike[str], dtype: torch.dtype | str = torch.float32, **parts: torch.nn.Module
) -> Any:
    """The pipeline of a short name or a folder, weights 64-byte aligned, in eval mode; raises WeightsError.

    parts: components that are not to be read from a folder.
    """
    name, dtype = resolve(name_or_path)[0], number_format(dtype)
    if name in toy_pipe_names():
        with hushed():
            pipe = build_toy_pipe(name, dtype)
    else:
        index, options = _index(name), dict(dtype=dtype, local_files_only=True, **parts)
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


class LocalPipe:
    """What a pipeline of `load_local` is until it is split: the library's class, but it has no denoiser to call."""

    def __call__(self, *args: object, **options: object) -> None:
        """UnsupportedModel, always."""
        raise UnsupportedModel(
            "This pipeline was loaded without its denoiser: split it first, pipe = lk.split(pipe, body=host.address)."
        )

    def save_pretrained(self, *args: object, **options: object) -> None:
        """UnsupportedModel, always: the folder would lack the denoiser."""
        raise UnsupportedModel("This pipeline was loaded without its denoiser; save one of lk.load.")


def load_local_pipe(name_or_path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline without its denoiser's weights, which are only hashed; raises WeightsError."""
    name = resolve(name_or_path)[0]
    if name in toy_pipe_names():
        pipe = load_pipe(name, dtype)
        denoiser = getattr(pipe, part_of(pipe))
        denoiser.lsplit_digests = digests(denoiser)
        denoiser.to("meta")
    else:
        part, cls = _denoiser_of(name)
        with init_empty_weights(include_buffers=False):
            denoiser = cls.from_config(cls.load_config(_folder(name) / part, local_files_only=True)).eval()
        torch.nn.Module.to(denoiser, dtype)  # the library's own to() warns about casts
        denoiser.lsplit_digests = _file_digests(_folder(name) / part, denoiser, dtype)
        pipe = load_pipe(name, dtype, **{part: denoiser})
    pipe.lsplit_class = cls = type(pipe)
    pipe.__class__ = type(cls.__name__, (LocalPipe, cls), {"__module__": cls.__module__})
    return pipe


def _file_digests(folder: Path, denoiser: Any, dtype: torch.dtype) -> dict[str, str]:
    """Digests of a denoiser's tensors as they would be in memory, read one by one from its files."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                tensor = tensors.get_tensor(name)
                found[name] = digest(tensor.to(dtype) if tensor.is_floating_point() else tensor)
    if set(found) != set(denoiser.state_dict()):
        raise WeightsError(f"The weights in {folder} are named otherwise than the denoiser's parts; load it whole.")
    return found


def _denoiser_of(name: str) -> tuple[str, Any]:
    """("unet" or "transformer", its class) of a pipeline folder."""
    index = _index(name)
    part = next((p for p in ("unet", "transformer") if index.get(p, [None])[0]), None)
    if part is None:
        raise WeightsError(f"The pipeline {name} has neither a unet nor a transformer.")
    return part, getattr(diffusers, index[part][1])


def load_denoiser(name_or_path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> Any:
    """Only the U-Net or transformer of a pipeline: no VAE, no text encoder, no tokenizer is read."""
    name = resolve(name_or_path)[0]
    if name in toy_pipe_names():
        pipe = build_toy_pipe(name, dtype)
        return align_(getattr(pipe, part_of(pipe)).eval())
    part, cls = _denoiser_of(name)
    try:
        with hushed() if name == EMOJI else nullcontext():
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
        super().__init__(whole.run, whole.arguments, whole.info, module=denoiser)
        self.denoiser, self.name = denoiser, name

    def sub(self, start: int, stop: int) -> PictureBody:
        """The body of parts [start, stop), sharing weights and the pool."""
        last = self.info.stop - 1
        inside = 1 <= start < stop <= last
        if hasattr(self.denoiser, "down_blocks"):
            inside = inside and start + stop == last + 1 and start <= last // 2 - 1
        if not inside:
            raise FingerprintMismatch(f"Parts [{start}, {stop}) are not blocks that this denoiser can be cut at.")
        part = picture_body(self.denoiser, (start, stop), self.name)
        return PictureBody(part.run, part.arguments, part.info._replace(holds=self.info.holds), self.pool)


def _folder(name: str) -> Path:
    return SHIPPED if name == EMOJI else Path(name).expanduser()


def _index(name: str) -> dict[str, Any]:
    try:
        return json.loads((_folder(name) / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{name} is no readable pipeline folder ({type(error).__name__}).") from error
