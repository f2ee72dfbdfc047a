"""The cache slot of the Remote: a layer of the model's own `Cache` that remembers what was sent, no keys and values.

It lives where the library crops, reorders, repeats and selects, so the next step can tell the host of all of it.
A session belongs to this slot, and so to the cache object that `generate()` hands around: one cache, one session.
"""

from __future__ import annotations

import weakref
from collections import deque

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from ..errors import UnsupportedOption


class RemoteSlot(DynamicLayer):
    """Reports the session's length and mirrors crop, reorder, repeat, select and reset to the host's next step.

    `history` [B, T, d] holds every hidden vector sent so far: replay after a lost session, and policy `none`, need it.
    """

    is_compileable = False  # keeps generate() from turning masks into 4-D ones that hide the pad counts
    supports_early_init = False

    def __init__(self, replaced: object = None) -> None:
        super().__init__()
        self.max_length = getattr(replaced, "max_cache_len", None)  # a static cache's masks are this wide
        self.forget()

    def forget(self) -> None:
        """Back to the empty slot; the session number, if any, is left for the host to drop."""
        self.history: Tensor | None = None
        self.positions: Tensor | None = None
        self.pads: list[int] | None = None
        self.rows: list[int] | None = None
        self.sent = 0
        self.session: int | None = None
        self.epoch = -1
        self.step_no = 0
        self.release: weakref.finalize | None = None

    def bind(self, session: int, epoch: int, closing: deque[tuple[int, int]]) -> None:
        """Take a session; its number joins `closing` when this slot is reset or collected."""
        if self.release is not None:
            self.release()
        self.session, self.epoch, self.step_no = session, epoch, 0
        self.release = weakref.finalize(self, closing.append, (epoch, session))
        self.release.atexit = False

    def append(self, hidden: Tensor, positions: Tensor | None) -> None:
        """Remember new hidden vectors [B, T, d] and, where the user gave them, their positions [B or 1, T]."""
        self.history = hidden if self.history is None else torch.cat([self.history, hidden], dim=1)
        if positions is not None:
            self.positions = positions if self.positions is None else torch.cat([self.positions, positions], dim=1)
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Positions of the session."""
        return 0 if self.history is None else self.history.shape[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As the replaced layer would answer, so that one mask fits all layers."""
        return (self.max_length, 0) if self.max_length else (self.get_seq_length() + query_length, 0)

    def get_max_length(self) -> int:
        """The static cache's length, or -1."""
        return self.max_length or -1

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last |n| positions; the host learns of it by the `start` of the next step."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes a negative count of tokens to remove, got {tokens_to_remove}.")
        keep = max(0, self.get_seq_length() + tokens_to_remove)
        if self.history is not None and tokens_to_remove:
            self.history = self.history[:, :keep]
            if self.positions is not None:
                self.positions = self.positions[:, :keep]
            self.sent = min(self.sent, keep)

    def reset(self) -> None:
        """Start over with an empty session."""
        if self.release is not None:
            self.release()
        self.forget()
        self.is_initialized = False

    def _gather(self, rows: list[int]) -> None:
        if self.history is None:
            return
        self.history = self.history[rows]
        if self.positions is not None and self.positions.shape[0] > 1:
            self.positions = self.positions[rows]
        if self.pads is not None:
            self.pads = [self.pads[row] for row in rows]
        self.rows = rows if self.rows is None else [self.rows[row] for row in rows]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Beam search: row i continues what was row beam_idx[i]."""
        self._gather(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row `repeats` times."""
        if self.history is not None:
            self._gather([row for row in range(self.history.shape[0]) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only these rows go on."""
        if self.history is not None:
            self._gather(torch.arange(self.history.shape[0])[indices.cpu()].tolist())

    def update(self, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """Never called: the Remote keeps no keys and values."""
        raise UnsupportedOption("The remote body keeps its own keys and values; this slot takes none.")

    def lazy_initialization(self, *args: object) -> None:
        """Nothing to allocate."""

    def offload(self) -> None:
        """Nothing to move."""

    def prefetch(self) -> None:
        """Nothing to move."""

    def __deepcopy__(self, memo: dict) -> RemoteSlot:
        """A copied cache is a second session: it holds the same history and replays it at its first step."""
        twin = RemoteSlot()
        twin.max_length, twin.pads, twin.is_initialized = self.max_length, self.pads, self.is_initialized
        twin.history, twin.positions = self.history, self.positions
        return twin

    def __repr__(self) -> str:
        return f"RemoteSlot({self.get_seq_length()} positions)"


def adopt(cache: Cache, index: int) -> RemoteSlot:
    """The Remote's slot at list position `index` of a cache, put there on first sight."""
    while len(cache.layers) <= index:
        cache.layers.append(cache.layer_class_to_replicate() if cache.layer_class_to_replicate else DynamicLayer())
    if not isinstance(cache.layers[index], RemoteSlot):
        if cache.layers[index].is_initialized:
            raise UnsupportedOption(
                "This cache was filled by a model that is not split here; start with an empty one (its body part holds "
                "keys and values, which never cross)."
            )
        cache.layers[index] = RemoteSlot(cache.layers[index])
    return cache.layers[index]
