"""Digests of tensors, and the fingerprint by which two sides tell that they hold the same weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import WeightsError

_CHUNK = 1 << 22
# tensor -> (its state when hashed, digest); an entry dies with its tensor
_known: Any = WeakTensorKeyDictionary()


Named: TypeAlias = nn.Module | Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]


def digests(tensors: Named) -> dict[str, str]:
    """SHA-256 (hex) of the raw little-endian bytes of every named tensor; a module stands for its state dict.

    A tensor is hashed again only when its memory or its version counter changed; writing through `.data`
    changes neither, so call `forget` after that.
    """
    if isinstance(tensors, nn.Module):
        tensors = tensors.state_dict(keep_vars=True)
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    return {name: digest(tensor) for name, tensor in pairs}


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 (hex) of one tensor's raw bytes, row-major; raises WeightsError for a meta tensor."""
    if tensor.device.type == "meta":
        raise WeightsError("A tensor on the meta device has no bytes to take a fingerprint of.")
    if tensor.is_inference():  # it has no version counter, so a change could not be seen
        return _hash(tensor)
    state = (tensor.data_ptr(), tensor._version, tensor.dtype, tuple(tensor.shape), tensor.stride())
    held = _known.get(tensor)
    if held is not None and held[0] == state:
        return held[1]
    found = _hash(tensor)
    _known[tensor] = (state, found)
    return found


def forget() -> None:
    """Drop every remembered digest."""
    _known.clear()


def _hash(tensor: torch.Tensor) -> str:
    flat = tensor.detach().contiguous().view(-1)
    step, hasher = max(1, _CHUNK // flat.element_size()), hashlib.sha256()
    for start in range(0, flat.numel(), step):  # bytes are viewed, not cast: numpy has no bfloat16
        hasher.update(memoryview(flat[start : start + step].cpu().view(torch.uint8).numpy()))
    return hasher.hexdigest()


def layer_of(name: str, layer_prefix: str) -> int | None:
    """Index of the decoder layer that a parameter name belongs to ("model.layers.3.x" -> 3), or None."""
    prefix = layer_prefix.rstrip(".") + "."
    number = name[len(prefix) :].split(".", 1)[0] if name.startswith(prefix) else ""
    return int(number) if number.isdecimal() else None


def fingerprint(
    digests: Mapping[str, str], start: int, stop: int, layer_prefix: str, dtype: torch.dtype | str, config: Any
) -> str:
    """SHA-256 (hex) of decoder layers [start, stop): model type, width, cut, number format and weights.

    `digests` is by names in the whole model; entries outside the layers do not count. Raises WeightsError
    when a layer of the range has no entry at all.
    """
    entries = sorted(
        (name, sha)
        for name, sha in digests.items()
        if (layer := layer_of(name, layer_prefix)) is not None and start <= layer < stop
    )
    missing = set(range(start, stop)) - {layer_of(name, layer_prefix) for name, _ in entries}
    if missing:
        raise WeightsError(f"No digests are known for decoder layer {min(missing)}.")
    facts = {
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "start": start,
        "stop": stop,
        "dtype": str(dtype).removeprefix("torch."),
        "tensors": entries,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fingerprint_of_tensors(family: str, cut: tuple[int, int], dtype: str, digests: Mapping[str, str]) -> str:
    """SHA-256 (hex) of the parts [start, stop) of a denoiser: class, cut, number format and every tensor."""
    facts = {"family": family, "cut": list(cut), "dtype": dtype, "tensors": sorted(digests.items())}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
