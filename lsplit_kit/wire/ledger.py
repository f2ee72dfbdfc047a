"""The byte table of a tap or capture, as pandas DataFrames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from .tap import Crossing

COLUMNS = ["name", "kind", "session", "step", "start", "direction", "shape", "codec", "tensor", "payload", "frame"]


def table(crossings: Sequence[Crossing]) -> pd.DataFrame:
    """One row per crossing, three byte counts each."""
    import pandas as pd

    return pd.DataFrame([c[: len(COLUMNS)] for c in crossings], columns=COLUMNS).rename_axis("crossing")


def totals(crossings: Sequence[Crossing]) -> pd.DataFrame:
    """Tensor, payload and frame bytes by direction; control frames count in `frame`."""
    sums = table(crossings).groupby("direction")[["tensor", "payload", "frame"]].sum()
    return sums.reindex(["up", "down"], fill_value=0)
