"""What a host's log is told: events, each with its facts; sizes, times and names, never what is in a tensor."""

from __future__ import annotations

import logging

NOTICE = 25  # who came and who left: more than a host says by itself, less than all that it does
logging.addLevelName(NOTICE, "NOTICE")
log = logging.getLogger("lsplit_kit.host")


def tell(
    event: str, level: int = logging.INFO, /, cause: BaseException | None = None, **facts: str | int | float
) -> None:
    """Log one event with its facts; of `cause` its name and place. Tensors, tokens and payloads are no facts."""
    if log.isEnabledFor(level):
        log.log(level, event, extra={"facts": facts}, exc_info=cause)
