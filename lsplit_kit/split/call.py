"""What one forward call says besides its tensors: pad counts and positions, read before they become masks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UnsupportedOption


class Call(NamedTuple):
    """Left pads per row; how the host is to count positions (`cache` or `pads`); positions given by hand, else None.

    wanted: how many of the last positions anybody will look at, None for all of them.
    """

    pads: list[int]
    counted: str
    verbatim: Tensor | None
    wanted: int | None = None


def refuse(kwargs: dict, config: object) -> None:
    """UnsupportedOption for what would silently return fewer layers than the user expects."""
    for name in ("output_hidden_states", "output_attentions"):
        if kwargs.get(name) or (kwargs.get(name) is None and getattr(config, name, False)):
            raise UnsupportedOption(
                f"{name} is not available on a split model: the body's layers are elsewhere, their states do not cross."
            )


def read_call(mask: object, position_ids: Tensor | None, batch: int, tokens: int, past: int) -> Call:
    """Turn a 2-D attention mask [B, past+T] and position ids into counts; other masks are refused with a sentence."""
    pads = [0] * batch
    if isinstance(mask, Tensor) and mask.dim() == 2:
        ones = mask.bool().cpu()
        counts = (~ones).sum(dim=1)
        left = torch.arange(ones.shape[1])[None] >= counts[:, None]
        if not torch.equal(ones, left):
            raise UnsupportedOption(
                "Only left padding crosses the wire: this attention mask has holes or right padding."
            )
        pads = counts.tolist() if len(counts) == batch else counts.tolist() * batch
        if any(p >= past + tokens for p in pads):
            raise UnsupportedOption("A row of this batch is padding only; give it at least one token.")
    elif mask is not None:
        raise UnsupportedOption("A split model takes a 2-D attention mask (1 token, 0 left padding), or none.")
    if position_ids is None:
        return Call(pads, "cache", None)
    at = position_ids.reshape(-1, position_ids.shape[-1]).cpu()
    counted = torch.arange(past, past + tokens)[None]
    if torch.equal(at, counted.expand_as(at)):
        return Call(pads, "cache", None)
    by_pads = counted - torch.tensor(pads)[:, None]
    if at.shape == by_pads.shape and torch.equal(at.where(by_pads >= 0, 0), by_pads.clamp(min=0)):
        return Call(pads, "pads", None)
    return Call(pads, "cache", at)
