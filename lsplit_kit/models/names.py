"""What a person may write for a model, a number format or a plan, checked before anything slow is done with it."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path

import torch

from ..errors import UnsupportedOption, WeightsError
from ..split.plan import SplitPlan
from .convert import SMOLLM2, SMOLLM2_LAYERS
from .toy_pipes import toy_pipe_names
from .toys import LAYERS, toy_names

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
EMOJI, SHIPPED = "emoji-ldm", Path(__file__).with_name("emoji_ldm")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def known_names() -> list[str]:
    """The short names that `load` knows."""
    return [SMOLLM2, *toy_names(), *picture_names()]


def picture_names() -> list[str]:
    """The short names of pipelines."""
    return [*([EMOJI] if SHIPPED.is_dir() else []), *toy_pipe_names()]


def resolve(model: object) -> tuple[str, Path | None]:
    """(name, folder): a short name in the kit's spelling, a folder, or else a hub id (folder None).

    Raises UnsupportedOption for what is no name at all, WeightsError for a missing folder and a misspelt short name.
    """
    if not isinstance(model, (str, os.PathLike)) or isinstance(os.fspath(model), bytes):
        raise UnsupportedOption(f"A model is named by a short name, a folder or a hub id, got {type(model).__name__}.")
    name, known = os.fspath(model), known_names()
    if not name.strip():
        raise WeightsError("The model's name is empty; give a short name, a folder or a hub id.")
    if name in known:
        return name, None
    if os.path.isdir(Path(name).expanduser()):
        return name, Path(name).expanduser()
    if name.lower() in known:
        return name.lower(), None
    if name.startswith((".", "~")) or os.path.isabs(name):
        raise WeightsError(f"There is no model folder {name}.")
    near = suggestion(name)
    if near and f"toy-{name.lower()}" != near:  # "gpt2" is a hub id of its own
        raise WeightsError(f"There is no model named {name!r}; did you mean {near!r}?")
    if name.lower().startswith("toy-"):
        raise WeightsError(f"There is no toy named {name!r}; `lsplit models` lists them.")
    return name, None


def is_picture(model: object) -> bool:
    """Whether a name is a pipeline's: a short name, or a folder with a model_index.json. Raises as `resolve`."""
    name, folder = resolve(model)
    return name in picture_names() if folder is None else (folder / "model_index.json").is_file()


def suggestion(name: str) -> str | None:
    """The short name that a name without "/" may have meant, or None."""
    low, known = name.lower(), known_names()
    if "/" in name:
        return None
    if low.startswith(SMOLLM2):
        return SMOLLM2
    return next(iter(difflib.get_close_matches(low, known, 1, 0.8)), f"toy-{low}" if f"toy-{low}" in known else None)


def number_format(dtype: object) -> torch.dtype:
    """A float format given as torch.dtype or by its name ("float16"); raises UnsupportedOption."""
    found = FORMATS.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if found not in FORMATS.values():
        raise UnsupportedOption(f"dtype={dtype!r} is no float format of the kit; use float32, bfloat16 or float16.")
    return found  # type: ignore[return-value]


def check_plan(model: object, head: int, tail: int) -> SplitPlan:
    """The plan, if the model's configuration has room for it; reads no weights. Raises PlanError, and as `resolve`."""
    plan = SplitPlan(head, tail)
    layers = layer_count(*resolve(model))
    return plan if layers is None else plan.check(layers)


def layer_count(name: str, folder: Path | None) -> int | None:
    """Decoder layers of a short name or a folder, by its configuration; None where that does not tell."""
    if folder is None:
        return SMOLLM2_LAYERS if name == SMOLLM2 else LAYERS if name in toy_names() else None
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        config = {**config, **config.get("text_config", {})}
        found = next((config[key] for key in _LAYERS if type(config.get(key)) is int), None)
    except (OSError, ValueError, AttributeError, TypeError):
        return None  # loading says what is wrong with it
    return found
