"""Loading one side only: the tensors that the other side needs are never read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError
from ..split.body import body_of, layer_prefix
from ..split.plan import SplitPlan
from ..split.session import Body
from .convert import smollm2_folder
from .load import SMOLLM2, TokenizerAtUse, fill, skeleton
from .reader import TensorFolder
from .toys import toy_folder


def folder_of(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder behind a short name or a path; raises WeightsError for a hub id, which has to be saved first."""
    name = os.fspath(name_or_path)
    if name == SMOLLM2:
        return smollm2_folder()
    if name.startswith("toy-"):
        return toy_folder(name)
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    raise WeightsError(f"{name!r} is no folder: load one side only from a short name or a folder (save_pretrained).")


def load_local(
    name_or_path: str | os.PathLike[str], head: int = 2, tail: int = 2, dtype: torch.dtype = torch.float32
) -> Any:
    """The model with head, tail and ends in memory and the body's layers on the meta device; for split(body=host)."""
    folder, plan = folder_of(name_or_path), SplitPlan(head, tail)
    model = skeleton(folder, dtype)
    prefix, layers = layer_prefix(model)
    start, stop = plan.cut(layers)
    away = tuple(f"{prefix}.{i}." for i in range(start, stop))
    fill(model, folder, dtype, lambda name: not name.startswith(away))
    model.lsplit_name, model.lsplit_folder, model.lsplit_plan = os.fspath(name_or_path), folder, plan
    model.lsplit_tokenizer = TokenizerAtUse(folder=folder)
    model.lsplit_digests = body_digests(TensorFolder(folder), away, dtype)
    return model


def load_body(name_or_path: str | os.PathLike[str], head: int = 2, tail: int = 2, dtype: str = "float32") -> Body:
    """Only the body's layers, for a host; it holds no embedding, no final norm and no LM head."""
    folder, plan = folder_of(name_or_path), SplitPlan(head, tail)
    number = getattr(torch, dtype, None)
    if not isinstance(number, torch.dtype) or not number.is_floating_point:
        raise WeightsError(f"{dtype!r} is no float format; use float32, bfloat16 or float16.")
    model = skeleton(folder, number)
    prefix, layers = layer_prefix(model)
    start, stop = plan.cut(layers)
    mine = tuple(f"{prefix}.{i}." for i in range(start, stop))
    fill(model, folder, number, lambda name: name.startswith(mine))
    model.lsplit_name = os.fspath(name_or_path)
    return Held(model, plan)


class Held(Body):
    """A host's body, which also serves any smaller range of the layers it holds."""

    def __init__(self, model: Any, plan: SplitPlan) -> None:
        whole = body_of(model, plan)
        super().__init__(whole.base, whole.info)
        self.model = model

    def sub(self, start: int, stop: int) -> Body:
        """The body of layers [start, stop), sharing weights and the compute lock; the caller checks the range."""
        plan = SplitPlan(start, layer_prefix(self.model)[1] - stop)
        part = body_of(self.model, plan)
        return Body(part.base, part.info._replace(holds=self.info.holds), self._lock)


def body_digests(tensors: TensorFolder, away: tuple[str, ...], dtype: torch.dtype) -> dict[str, str]:
    """Digests of the body's tensors without keeping them: from the manifest, or cast one by one where dtype differs."""
    from ..split.fingerprint import digest

    names = [n for n in tensors.names if n.startswith(away)]
    if all(tensors.dtype(n) == dtype for n in names):
        known = tensors.digests()
        return {n: known[n] for n in names}
    return {n: digest(tensors.read(n, dtype)) for n in names}
