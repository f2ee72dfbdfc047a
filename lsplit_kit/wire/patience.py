"""What the local side does when a host says that it is busy: it waits as long as it is asked to, within a limit."""

from __future__ import annotations

import random
import time
import warnings

from ..errors import Busy
from .link import Link

DEFAULT_SECONDS = 60.0  # for a link that has no timeout
LEAST = 0.02  # seconds between two questions, whatever the host says


class Patience:
    """Waits for a busy host, and says so once."""

    def __init__(self) -> None:
        self._said = False
        self._dice = random.Random()  # of its own: a wait must not change what the user draws

    def wait(self, busy: Busy, until: float | None, link: Link) -> float:
        """Sleep as long as `busy` asks for, and up to a quarter more, so that those who wait do not come back together.

        until: what the last wait of the same call returned (time.monotonic() seconds), None for its first. Raises
        `busy` when the link's timeout is over.
        """
        seconds = getattr(link, "timeout", DEFAULT_SECONDS)
        until = time.monotonic() + seconds if until is None else until
        left = until - time.monotonic()
        if left <= 0:
            raise busy
        if not self._said:
            self._said = True
            warnings.warn(f"The host is busy; asking again for up to {seconds:g} s. It says: {busy}", stacklevel=2)
        time.sleep(min(left, max(LEAST, busy.retry_after) * (1 + self._dice.random() / 4)))
        return until
