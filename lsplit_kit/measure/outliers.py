"""The few channels of a hidden tensor that are far larger than the others, and the token where each is largest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UnsupportedOption

if TYPE_CHECKING:
    import pandas as pd

OUTLIER = 6.0  # times the median channel's peak


def channel_peaks(hidden: Tensor, outlier: float = OUTLIER) -> pd.DataFrame:
    """One row per channel of a tensor [..., d]: peak (largest magnitude), token (where), times (the median peak).

    `outlier` says whether a channel's peak is more than that many times the median one. The largest of them may be a
    single value at the first token, a "massive activation" (arXiv 2402.17762). Raises UnsupportedOption.
    """
    import pandas as pd

    if not isinstance(hidden, Tensor) or hidden.dim() < 1 or not hidden.numel() or not hidden.is_floating_point():
        raise UnsupportedOption("channels are those of a float tensor [..., d] with at least one value.")
    peak, token = hidden.detach().cpu().float().reshape(-1, hidden.shape[-1]).abs().max(dim=0)
    middle = float(peak.median())
    times = peak / middle if middle > 0 else torch.ones_like(peak)
    columns = {"peak": peak.numpy(), "token": token.numpy(), "times": times.numpy(), "outlier": times.numpy() > outlier}
    return pd.DataFrame(columns).rename_axis("channel")
