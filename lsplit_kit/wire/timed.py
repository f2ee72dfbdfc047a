"""What an emulated link keeps of steps: those under way, and what a block of them took."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from ..errors import LsplitError, UnsupportedOption
from .message import Exchange


class Lane(NamedTuple):
    """A session's steps under way; with `realtime` also the answers that are here, and since when."""

    answers: deque[tuple[Any, ...]]
    came: deque[tuple[Exchange | LsplitError, float]]


class Trip(NamedTuple):
    """One step, in seconds: local computing before it, up, waiting for the host, host, down; and its frames' bytes."""

    local: float
    up: float
    queue: float
    host: float
    down: float
    frame_up: int
    frame_down: int


class Timed:
    """What a timed block took: `seconds` on the link's clock, and its `trips`."""

    def __init__(self, local_speed: float, host_speed: float) -> None:
        for name, value in (("local_speed", local_speed), ("host_speed", host_speed)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise UnsupportedOption(f"{name} takes a number above 0, got {value!r}.")
        self.local_speed, self.host_speed = local_speed, host_speed
        self.seconds = self.tail = 0.0  # tail: local computing after the last answer
        self.trips: list[Trip] = []
