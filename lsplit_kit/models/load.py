"""Loading a model by name: SmolLM2, a toy, a folder, or a model of the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lsplit_kit.errors import WeightsError
from lsplit_kit.models.convert import SMOLLM2, smollm2_folder
from lsplit_kit.models.hub import hub_answers, pretrained
from lsplit_kit.models.names import known_names, number_format, resolve
from lsplit_kit.models.reader import ALIGNMENT, TensorFolder
from lsplit_kit.models.toy_tokenizer import toy_tokenizer
from lsplit_kit.models.toys import build_toy, toy_names

__all__ = ["align_", "fill", "known_names", "load", "load_folder", "skeleton", "tokenizer_of"]


def load(name_or_path: str | os.PathLike[str], dtype: torch.dtype | str = torch.float32) -> tuple[Any, Any]:
    """(model, tokenizer) for a short name, a folder or a hub id; in eval mode, weights 64-byte aligned.

    The model carries `lsplit_name`, `lsplit_folder` (None unless it was read from a folder) and
    `lsplit_tokenizer()`, which gives the tokenizer (None when a folder has none). Raises WeightsError, and
    UnsupportedOption for what is no name or no float format.
    """
    name, folder = resolve(name_or_path)
    number = number_format(dtype)
    if name == SMOLLM2 and folder is None:
        folder = smollm2_folder()
        model, tokenizer = load_folder(folder, number), tokenizer_of(str(folder))
    elif folder is None and name in toy_names():
        model, tokenizer = align_(build_toy(name, number)), toy_tokenizer()
    else:
        where, offline = str(folder or name), folder is None and not hub_answers()
        model = align_(pretrained(where, number, folder is not None, offline))
        tokenizer = tokenizer_of(where, folder is not None or offline)
    model.lsplit_name = name
    model.lsplit_folder = folder
    model.lsplit_tokenizer = TokenizerAtUse(tokenizer)
    return model, tokenizer


class TokenizerAtUse:
    """A model's tokenizer, or the folder whose tokenizer is read at the first call: its vocabulary costs tens of MB."""

    def __init__(self, tokenizer: Any = None, folder: Path | None = None) -> None:
        self._tokenizer, self._folder = tokenizer, folder

    def __call__(self) -> Any:
        """The tokenizer, always the same object; None where a folder has none."""
        if self._tokenizer is None and self._folder is not None:
            self._tokenizer = tokenizer_of(str(self._folder))
        return self._tokenizer

    def __deepcopy__(self, memo: dict) -> TokenizerAtUse:
        return self  # every copy of a model speaks the same vocabulary


def skeleton(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a folder as a structure: parameters on the meta device, buffers real, eval mode."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    # Rotary tables and the like are in no file: they must be computed here, so buffers are kept real.
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def fill(model: Any, folder: Path, dtype: torch.dtype, keep: Callable[[str], bool] = lambda name: True) -> Any:
    """Read the tensors whose name `keep` accepts, each straight into aligned memory; the rest stay on meta."""
    from transformers import GenerationConfig

    tensors = TensorFolder(folder)
    for name in filter(keep, tensors.names):
        owner, _, leaf = name.rpartition(".")
        try:
            module = model.get_submodule(owner)
            old = getattr(module, leaf)
        except AttributeError:
            raise WeightsError(
                f"The weights in {folder} are named otherwise than the model's parts ({name}); load it whole with "
                "lk.load and save it with save_pretrained(..., save_original_format=False)."
            ) from None
        if tuple(old.shape) != tensors.shape(name):
            raise WeightsError(f"The weights in {folder} do not fit the model: {name} has another shape.")
        value = tensors.read(name, dtype)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(value, requires_grad=value.is_floating_point())
        else:
            module._buffers[leaf] = value
    model.tie_weights()
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta" and keep(name):
            raise WeightsError(f"The weights in {folder} do not fit the model: {name} is missing.")
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    model.config._name_or_path = model.name_or_path = str(folder)
    return model


def load_folder(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The whole model of a folder; raises WeightsError."""
    return fill(skeleton(folder, dtype), folder, dtype)


@torch.no_grad()
def align_(model: nn.Module) -> Any:
    """Move tensors that are not 64-byte aligned to memory that is, in place; returns the model."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            moved = torch.empty_like(tensor, requires_grad=False)
            assert moved.data_ptr() % ALIGNMENT == 0, "torch allocated memory that is not 64-byte aligned"
            tensor.data = moved.copy_(tensor)
    return model


def tokenizer_of(name: str, local: bool = True) -> Any:
    """The tokenizer of a folder (None where it has none) or hub id; raises WeightsError."""
    from transformers import AutoTokenizer

    if os.path.isdir(name) and not any(
        (Path(name) / file).is_file()
        for file in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
    ):
        return None
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=local, trust_remote_code=False)
    except Exception as error:
        raise WeightsError(f"The tokenizer of {name} cannot be loaded ({type(error).__name__}).") from error
