"""Loading one side only: the tensors that the other side needs are never read."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..errors import UnsupportedModel, WeightsError
from ..split.body import body_of, layer_prefix
from ..split.picture_host import PictureBody
from ..split.plan import SplitPlan
from ..split.session import Body
from ..split.telling import tensors_of
from .convert import SMOLLM2, smollm2_folder
from .load import TokenizerAtUse, fill, skeleton
from .names import check_plan, is_picture, number_format, resolve, suggestion
from .pictures import load_local_pipe, load_picture_body
from .reader import TensorFolder
from .toys import toy_folder, toy_names


def folder_of(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder behind a short name or a path; raises WeightsError for a hub id, which has to be saved first."""
    name, folder = resolve(name_or_path)
    if folder is not None:
        return folder
    if name == SMOLLM2:
        return smollm2_folder()
    if name in toy_names():
        return toy_folder(name)
    near = suggestion(name)
    raise WeightsError(
        f"{name!r} is no folder: load one side only from a short name or a folder (save_pretrained)"
        + (f"; did you mean {near!r}?" if near else ".")
    )


class LocalSide:
    """What a model of `load_local` is until it is split: the library's class, but nothing can run."""

    def generate(self, *args: object, **options: object) -> None:
        """UnsupportedModel, always."""
        raise UnsupportedModel(
            "This model was loaded without its body: split it first, lm = lk.split(model, body=host.address)."
        )

    forward = generate


def load_local(
    name_or_path: str | os.PathLike[str], head: int = 2, tail: int = 2, dtype: torch.dtype | str = torch.float32
) -> Any:
    """The model with head, tail and ends in memory and the body's layers on the meta device; for split(body=host).

    Of a pipeline, everything but its denoiser's weights; head and tail do not matter there.
    """
    if is_picture(name_or_path):
        return load_local_pipe(name_or_path, number_format(dtype))
    number, plan = number_format(dtype), check_plan(name_or_path, head, tail)
    name, folder = resolve(name_or_path)[0], folder_of(name_or_path)
    model = skeleton(folder, number)
    prefix, layers = layer_prefix(model)
    start, stop = plan.cut(layers)
    away = tuple(f"{prefix}.{i}." for i in range(start, stop))
    fill(model, folder, number, lambda name: not name.startswith(away))
    model.lsplit_name, model.lsplit_folder, model.lsplit_plan = name, folder, plan
    model.lsplit_tokenizer = TokenizerAtUse(folder=folder)
    model.lsplit_digests = body_digests(TensorFolder(folder), away, number)
    model.lsplit_class = cls = type(model)
    model.__class__ = type(cls.__name__, (LocalSide, cls), {"__module__": cls.__module__})
    return model


def load_body(
    name_or_path: str | os.PathLike[str], head: int = 2, tail: int = 2, dtype: torch.dtype | str = "float32"
) -> Body | PictureBody:
    """Only the body, for a host: decoder layers without embedding, norm and LM head; or a pipeline's denoiser."""
    number = number_format(dtype)
    if is_picture(name_or_path):
        return load_picture_body(name_or_path, number)
    plan = check_plan(name_or_path, head, tail)
    name, folder = resolve(name_or_path)[0], folder_of(name_or_path)
    model = skeleton(folder, number)
    prefix, layers = layer_prefix(model)
    start, stop = plan.cut(layers)
    mine = tuple(f"{prefix}.{i}." for i in range(start, stop))
    fill(model, folder, number, lambda name: name.startswith(mine))
    model.lsplit_name = name
    return Held(model, plan)


MOST_PARTS = 32  # ranges of layers that are kept ready: a peer may ask for every one that there is


class Held(Body):
    """A host's body, which also serves any smaller range of the layers it holds."""

    def __init__(self, model: Any, plan: SplitPlan) -> None:
        whole = body_of(model, plan)
        super().__init__(whole.base, whole.info)
        self.model = model
        self._parts: dict[tuple[int, int], Body] = {}
        self._making = threading.Lock()

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Whatever weights of the whole model are in memory here, by their names there, and the body's tables."""
        yield from tensors_of(self.model, buffers=False)
        yield from self.named(tensors_of(self.base, parameters=False))

    def sub(self, start: int, stop: int) -> Body:
        """The body of layers [start, stop), sharing weights and the pool; the caller checks the range."""
        with self._making:
            if (start, stop) not in self._parts:  # once, so that clients with the same cuts share it
                if len(self._parts) >= MOST_PARTS:
                    self._parts.pop(next(iter(self._parts)))
                self._parts[start, stop] = body_of(self.model, SplitPlan(start, layer_prefix(self.model)[1] - stop))
            part = self._parts[start, stop]
        return self.part(part.base, part.info._replace(holds=self.info.holds))


def body_digests(tensors: TensorFolder, away: tuple[str, ...], dtype: torch.dtype) -> dict[str, str]:
    """Digests of the body's tensors without keeping them: from the manifest, or cast one by one where dtype differs."""
    from ..split.fingerprint import digest

    names = [n for n in tensors.names if n.startswith(away)]
    if all(tensors.dtype(n) == dtype for n in names):
        known = tensors.digests()
        return {n: known[n] for n in names}
    return {n: digest(tensors.read(n, dtype)) for n in names}
