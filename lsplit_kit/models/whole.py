"""Loading all of a model or pipeline for a host that was started with --whole."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..errors import UnsupportedModel
from ..split.whole import WholeText, whole_text
from ..split.whole_picture import WholePictures, whole_pictures
from .load import TokenizerAtUse, load_folder
from .names import is_picture, number_format, resolve
from .partial import folder_of
from .pictures import load_pipe


def load_whole(
    name_or_path: str | os.PathLike[str], head: int = 0, tail: int = 0, dtype: torch.dtype | str = "float32"
) -> WholeText | WholePictures:
    """The whole model of a short name or a folder, for cloud-only serving; head and tail do not matter.

    Raises WeightsError.
    """
    number = number_format(dtype)
    if is_picture(name_or_path):
        return whole_pictures(load_pipe(name_or_path, number))
    model = load_folder(folder_of(name_or_path), number)
    model.lsplit_name = resolve(name_or_path)[0]
    return whole_text(model)


def whole_of(model: Any) -> WholeText | WholePictures:
    """The host's side of a cloud-only deployment of a model or pipeline in memory; raises UnsupportedModel."""
    return whole_pictures(model) if is_pipeline(model) else whole_text(model)


def is_pipeline(model: Any) -> bool:
    """Whether this is a pipeline rather than a language model; UnsupportedModel when it is neither, or split."""
    if hasattr(model, "remote"):
        raise UnsupportedModel("This model is split already; deploy the model it was made from.")
    if hasattr(model, "scheduler") and hasattr(model, "components"):
        return True
    if not hasattr(model, "generate") or not hasattr(model, "config"):
        raise UnsupportedModel(
            "A deployment takes a causal language model of transformers or a pipeline of diffusers, "
            f"got {type(model).__name__}."
        )
    return False


class Asking:
    """What the local side needs to ask a whole model's host: the tokenizer, no weights."""

    def __init__(self, name: str, picture: bool, tokenizer: TokenizerAtUse) -> None:
        self.lsplit_name, self.lsplit_picture, self.lsplit_tokenizer = name, picture, tokenizer


def asking(name_or_path: str | os.PathLike[str]) -> Asking:
    """The local side of a cloud-only deployment by the model's name or folder; raises WeightsError."""
    name, picture = resolve(name_or_path)[0], is_picture(name_or_path)
    return Asking(name, picture, TokenizerAtUse(folder=None if picture else folder_of(name_or_path)))
