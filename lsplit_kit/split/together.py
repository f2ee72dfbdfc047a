"""The next token of several sessions in one forward pass: weights are read once for all, attention looks at each alone.

The library's own forward runs on rows [N, 1, d]. Its cache is a row of caches, and its attention function, registered
as the library lets everybody register one, asks the library's usual one row by row: no row is padded, and each session
keeps a cache of its own length.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from ..wire.events import tell
from .blocks import growing_cache

NAME, USUAL = "lsplit_rows", "sdpa"


class Joint:
    """One session's wish to go one token further: hidden [1, 1, d] behind a cache; `seconds` that its share took."""

    def __init__(self, base: nn.Module, hidden: Tensor, cache: DynamicCache) -> None:
        self.base, self.hidden, self.cache, self.seconds = base, hidden, cache, 0.0


class Rows:
    """Caches of several sessions, one a row, in place of the cache of a batch."""

    is_compileable = False

    def __init__(self, caches: Sequence[DynamicCache]) -> None:
        self.caches = caches

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: object) -> tuple[list[Tensor], list[Tensor]]:
        """Append to each; keys and values [N, H, 1, D]; returns what each has, [1, H, T, D]."""
        found = [c.update(keys[i : i + 1], values[i : i + 1], layer) for i, c in enumerate(self.caches)]
        return [k for k, _ in found], [v for _, v in found]

    def get_seq_length(self, layer: int = 0) -> int:
        """Positions of the longest."""
        return max(cache.get_seq_length(layer) for cache in self.caches)


def attend(
    module: nn.Module, query: Tensor, keys: list[Tensor], values: list[Tensor], mask: None, **options: Any
) -> tuple[Tensor, None]:
    """The usual attention for each row of query [N, H, 1, D]; one new position sees all that its session has."""
    usual = ALL_ATTENTION_FUNCTIONS[USUAL]
    rows = zip(query.split(1), keys, values, strict=True)
    return torch.cat([usual(module, q, k, v, None, **options)[0] for q, k, v in rows]), None


AttentionInterface.register(NAME, attend)


def joinable(base: nn.Module) -> bool:
    """Whether several sessions of a body can go on in one pass; found out once, by trying it on made-up vectors."""
    if "lsplit_joins" not in base.__dict__:
        config: Any = base.config
        able = config._attn_implementation == USUAL and getattr(base, "_supports_attention_backend", False)
        base.__dict__["lsplit_joins"] = able and agrees(base)
    return base.__dict__["lsplit_joins"]


@torch.inference_mode()
def agrees(base: nn.Module, share: float = 1e-3) -> bool:
    """Whether two texts of unlike length come out alike, computed together and alone; share: of the largest value."""
    config: Any = base.config
    draw = torch.Generator().manual_seed(0)
    like = next(base.parameters())
    vectors = [torch.randn(1, n, config.hidden_size, generator=draw).to(like.dtype) for n in (3, 6)]
    try:
        alone = [growing_cache(config) for _ in vectors]
        together = [growing_cache(config) for _ in vectors]
        for caches in (alone, together):
            for cache, vector in zip(caches, vectors, strict=True):
                run(base, vector[:, :-1], cache)
        expected = [run(base, v[:, -1:], c) for v, c in zip(vectors, alone, strict=True)]
        found = forward([Joint(base, v[:, -1:], c) for v, c in zip(vectors, together, strict=True)])
    except Exception as err:  # a family whose attention cannot be given rows
        tell("not computed for several clients at once", cause=err, family=type(base).__name__)
        return False
    return all(bool((a - b).abs().max() <= share * b.abs().max()) for a, b in zip(found, expected, strict=True))


def run(base: nn.Module, hidden: Tensor, cache: Cache | None, **options: Any) -> Tensor:
    """A body's output [B, T, d] for the vectors that it receives in place of what it would compute itself."""
    entry: Any = next(m for m in base.children() if isinstance(m, nn.ModuleList))[0]
    entry.received = hidden
    try:
        zeros = torch.zeros((), dtype=hidden.dtype).expand(hidden.shape)
        out = base(inputs_embeds=zeros, past_key_values=cache, use_cache=cache is not None, **options)
        return out.last_hidden_state.reshape(hidden.shape)
    finally:
        entry.received = None


@torch.inference_mode()
def forward(joints: Sequence[Joint]) -> list[Tensor]:
    """Outputs [1, 1, d] of several sessions of one model, in one pass; each cache has one position more after it."""
    began, base = time.perf_counter(), joints[0].base
    config: Any = base.config
    rows: Any = Rows([j.cache for j in joints])
    at = torch.tensor([[j.cache.get_seq_length()] for j in joints])
    config._attn_implementation = NAME
    try:
        out = run(base, torch.cat([j.hidden for j in joints]), rows, position_ids=at)
    finally:
        config._attn_implementation = USUAL
    for joint in joints:
        joint.seconds = (time.perf_counter() - began) / len(joints)
    return list(out.split(1))
