"""A host's log: one line an event, as text or as JSON; sizes and times, never what is in a tensor."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ..wire.events import log
from .protocol import safe_text

LEVELS = ("warning", "notice", "info", "debug")
FORMATS = ("text", "json")


class Line(logging.Formatter):
    """One line for a record: when, how grave, the event, and its facts (`tell`)."""

    def __init__(self, form: str = "text") -> None:
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        """The line, in characters that can be printed."""
        facts = {name: _plain(value) for name, value in getattr(record, "facts", {}).items()}
        words = safe_text(record.getMessage())
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        if record.exc_info and record.exc_info[0]:  # which error, not its text: a peer's bytes might be quoted in it
            last = traceback.extract_tb(record.exc_info[2])[-1:]
            place = "".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in last)
            facts = facts | {"error": record.exc_info[0].__name__, "at": place}
        if self.form == "json":
            return json.dumps({"time": when, "level": record.levelname.lower(), "event": words, **facts})
        said = " ".join(f"{name}={_quoted(value)}" for name, value in facts.items())
        return f"{when} {record.name} {record.levelname} {words} {said}".rstrip()


@contextlib.contextmanager
def journal(level: str, form: str, stream: TextIO | None = None) -> Iterator[None]:
    """Write this process's log as such lines while the block runs, to stderr unless told otherwise."""
    handler, root = logging.StreamHandler(stream or sys.stderr), logging.getLogger()
    handler.setFormatter(Line(form))
    kept = root.handlers[:], root.level, log.level
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log.setLevel(level.upper())
    try:
        yield
    finally:
        root.handlers[:], root_level, log_level = kept
        root.setLevel(root_level)  # not by the attribute: loggers remember what is enabled
        log.setLevel(log_level)


def _plain(value: object) -> object:
    return safe_text(value) if isinstance(value, str) else value


def _quoted(value: object) -> str:
    """A text of several words between quotes, so that no peer's words look like another fact."""
    word = not isinstance(value, str) or re.fullmatch(r'[^\s"=]+', value)
    return str(value) if word else json.dumps(value, ensure_ascii=False)
