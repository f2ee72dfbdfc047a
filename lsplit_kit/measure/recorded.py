"""Latency models that ship with the kit: measured once on a named machine, so that a panel can answer at once."""

from __future__ import annotations

from pathlib import Path

from ..errors import UnsupportedOption
from .latency import LatencyModel

FOLDER = Path(__file__).with_name("timings")


def recorded(name: str = "smollm2") -> LatencyModel:
    """The recorded latency model of a named model; `.recorded` says where and when. Raises UnsupportedOption.

    `python scripts/record_latency.py` measures it anew.
    """
    known = sorted(path.name.removesuffix(".latency.json") for path in FOLDER.glob("*.latency.json"))
    if name not in known:
        raise UnsupportedOption(f"No latency model of {name!r} is recorded; recorded: {', '.join(known)}.")
    return LatencyModel.load(FOLDER / f"{name}.latency.json")
