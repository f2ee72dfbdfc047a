"""Keys and values that grow in blocks: a new token is written behind the others, and nothing is copied for it."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

BLOCK = 64  # positions


class BlockLayer(DynamicLayer):
    """The library's layer; `keys` and `values` [B, H, T, D] are the filled part of tensors with room for more."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append new positions; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = appended(self.keys, key_states)  # type: ignore[has-type]
        self.values = appended(self.values, value_states)  # type: ignore[has-type]
        return self.keys, self.values


def appended(held: Tensor, new: Tensor) -> Tensor:
    """`held` [B, H, T, D] with `new` behind it, in its own storage where that has room; one writer per storage."""
    start = held.shape[-2] if held.dim() == 4 else 0
    stop, room = start + new.shape[-2], 0
    if start and held.storage_offset() == 0 and held.stride(-2) == held.shape[-1] and held.stride(-1) == 1:
        room = held.stride(1) // held.shape[-1]  # positions between one head and the next
    if stop > room or held.shape[:2] != new.shape[:2]:
        room = -(-stop // BLOCK) * BLOCK
        whole = new.new_empty(*new.shape[:2], room, new.shape[-1])
        if start:
            whole[:, :, :start] = held
    else:
        whole = held.as_strided((*held.shape[:2], room, held.shape[-1]), held.stride())
    whole[:, :, start:stop] = new
    return whole[:, :, :stop]


def growing_cache(config: PretrainedConfig) -> DynamicCache:
    """The library's cache for a model; layers that keep everything grow in blocks."""
    cache = DynamicCache(config=config)
    cache.layers = [BlockLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def held_bytes(cache: DynamicCache | None) -> int:
    """Bytes of the storage behind a cache's tensors, room to grow included."""
    tensors = [t for layer in (cache.layers if cache is not None else ()) for t in (layer.keys, layer.values)]
    return sum(t.untyped_storage().nbytes() for t in tensors if isinstance(t, torch.Tensor))
