"""A host's log: one line an event, as text or as JSON; sizes and times, never what is in a tensor."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from pathlib import Path
from typing import TextIO

from .protocol import log, safe_text

LEVELS = ("warning", "info", "debug")
FORMATS = ("text", "json")


class Line(logging.Formatter):
    """One line for a record: when, how grave, the event, and its facts (`tell`)."""

    def __init__(self, form: str = "text") -> None:
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        """The line, in characters that can be printed."""
        facts = getattr(record, "facts", {})
        words = safe_text(record.getMessage())
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        if record.exc_info and record.exc_info[0]:  # which error, not its text: a peer's bytes might be quoted in it
            last = traceback.extract_tb(record.exc_info[2])[-1:]
            place = "".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in last)
            facts = facts | {"error": record.exc_info[0].__name__, "at": place}
        if self.form == "json":
            return json.dumps({"time": when, "level": record.levelname.lower(), "event": words, **facts})
        said = " ".join(f"{name}={safe_text(value)}" for name, value in facts.items())
        return f"{when} {record.name} {record.levelname} {words} {said}".rstrip()


def tell(event: str, level: int = logging.INFO, **facts: str | int | float) -> None:
    """Log one event with its facts: names, sizes, times. Tensors, tokens and payloads are no facts."""
    if log.isEnabledFor(level):
        log.log(level, event, extra={"facts": facts})


def keep_journal(level: str, form: str, stream: TextIO | None = None) -> None:
    """Write this process's log as such lines, to stderr unless told otherwise."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Line(form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log.setLevel(level.upper())
