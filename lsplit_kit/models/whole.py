"""Loading all of a model or pipeline for a host that was started with --whole."""

from __future__ import annotations

import os

import torch

from ..split.whole import WholeText, whole_text
from ..split.whole_picture import WholePictures, whole_pictures
from .load import load_folder
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
