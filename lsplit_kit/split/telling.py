"""What a body of this process can say of itself, for whoever asks: health, stats, and the tensors it holds."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..errors import FrameError
from ..wire.message import PROTOCOL, HostInfo, PictureStep, Step
from ..wire.watch import Health, Holding, Stats, Use, dump_holdings
from .fingerprint import digest

if TYPE_CHECKING:
    from .pool import Pool

EACH = 128  # holdings in one answer: some 40 kB
BOUNDS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # seconds


class Spent:
    """How long one stage of the steps took: the last ones for percentiles, all of them counted by size."""

    def __init__(self) -> None:
        self.recent: deque[float] = deque(maxlen=1024)
        self.counts, self.total = [0] * (len(BOUNDS) + 1), 0.0

    def add(self, seconds: float) -> None:
        """Count one step."""
        self.recent.append(seconds)
        self.counts[next((i for i, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))] += 1
        self.total += seconds

    def percentiles(self) -> tuple[int, int]:
        """(median, 95th percentile) of the last steps in microseconds, each the time of a step; 0 before the first."""
        ordered = sorted(self.recent)
        at = [ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0 for share in (0.5, 0.95)]
        return round(at[0] * 1e6), round(at[1] * 1e6)


def health_of(info: HostInfo, message: type, since: float) -> Health:
    """What a body serves; since: when its host began, on the monotonic clock."""
    kind = "layers" if message is Step else "parts" if message is PictureStep else "whole"
    up = int(time.monotonic() - since)
    return Health(True, info.model, info.fingerprint, kind, *info.holds, up, PROTOCOL)


def stats_of(
    pool: Pool, owner: str | None, connections: int = 1, queued: int = 0, queue: int = 0, refused: int = 0
) -> Stats:
    """How busy a pool is; sessions of one owner only, or None for everybody's."""
    held = [Use(o, number, size, int(idle)) for o, number, size, idle in pool.held() if owner is None or o == owner]
    stages = {name: spent.percentiles() for name, spent in pool.spent.items()}
    return Stats(
        owner is None, int(time.monotonic() - pool.since), connections, queued, queue, refused, pool.bytes, pool.limit,
        pool.quota, pool.steps, pool.hits, pool.misses, pool.evictions, **stages, sessions=tuple(held),
    )  # fmt: skip


def tensors_of(
    module: nn.Module, before: str = "", parameters: bool = True, buffers: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that have memory, shared ones under each of their names."""
    weights = module.named_parameters(remove_duplicate=False) if parameters else ()
    named = chain(weights, module.named_buffers(remove_duplicate=False) if buffers else ())
    return ((before + name, tensor) for name, tensor in named if tensor.device.type != "meta")


def holdings_from(tensors: Iterable[tuple[str, Tensor | None]], first: int) -> bytes:
    """The holdings from number `first` on, as many as one answer takes; None: a part without tensors."""
    every = list(tensors)
    if not 0 <= first <= len(every):
        raise FrameError(f"holdings counts from 0 to {len(every)}, got {first}.")
    return dump_holdings(len(every), [_holding(name, tensor) for name, tensor in every[first : first + EACH]])


def _holding(name: str, tensor: Tensor | None) -> Holding:
    if tensor is None:
        return Holding(name, (), "", 0, "")
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Holding(name, tuple(tensor.shape), dtype, tensor.nbytes, digest(tensor))
