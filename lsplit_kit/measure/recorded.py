"""Latency models that ship with the kit: measured once on a named machine, so that a panel can answer at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UnsupportedOption
from .latency import LatencyModel

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).with_name("timings")


def recorded(name: str = "smollm2") -> LatencyModel:
    """The recorded latency model of a named model; `.recorded` says where and when. Raises UnsupportedOption.

    `python scripts/record_latency.py` measures it anew.
    """
    known = sorted(path.name.removesuffix(".latency.json") for path in FOLDER.glob("*.latency.json"))
    if name not in known:
        raise UnsupportedOption(f"No latency model of {name!r} is recorded; recorded: {', '.join(known)}.")
    return LatencyModel.load(FOLDER / f"{name}.latency.json")


def recorded_steps(name: str = "smollm2") -> pd.DataFrame:
    """Single steps as they were measured: tokens, past, and seconds of the local side and of the host.

    Medians of three runs each; attrs["recorded"]: where and when. Raises UnsupportedOption.
    """
    import pandas as pd

    recorded(name)  # a name that is not known is refused there
    found = json.loads((FOLDER / f"{name}.steps.json").read_text("utf-8"))
    where = found.pop("recorded")
    table = pd.DataFrame(found)
    table.attrs["recorded"] = where
    return table
