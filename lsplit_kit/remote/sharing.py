"""How a host shares itself between its clients: one table of options for `lsplit host` and `lk.host`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

from ..errors import UnsupportedOption
from .turns import Turns

if TYPE_CHECKING:
    from ..split.pool import Pool


MOST_WINDOW = 1000  # milliseconds: whoever was expected and does not come costs the others so much


class Sharing(NamedTuple):
    """Memory, queue and batching of a host; None where nothing is set apart."""

    max_clients: int = 40
    max_each: int = 4
    memory_mb: float = 2048.0
    quota_mb: float | None = None
    forget_after: float = 3600.0
    queue: int = 64
    queue_each: int = 8
    prefill_piece: int = 256
    batch_window_ms: float | None = None

    def check(self) -> Sharing:
        """Raise UnsupportedOption for a value that makes no sense."""
        for name, value in zip(self._fields, self, strict=True):
            whole = name in ("max_clients", "max_each", "queue", "queue_each", "prefill_piece")
            least = 0 if HELP[name][1].startswith("from 0") else 1 if whole else 1e-6
            most = MOST_WINDOW if name == "batch_window_ms" else 1e12
            number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            if value is None and self._field_defaults[name] is None:
                continue
            if not number or not least <= value <= most:  # type: ignore[operator]
                kind = "a whole number" if whole else "a number"
                raise UnsupportedOption(f"{name} takes {kind} {HELP[name][1]}, got {value!r}.")
        return self

    def pool(self) -> Pool:
        """What its sessions may take."""
        from ..split.pool import Pool

        quota = None if self.quota_mb is None else int(self.quota_mb * 1e6)
        gather = self.batch_window_ms is not None
        return Pool(int(self.memory_mb * 1e6), quota, self.forget_after, self.prefill_piece, gather)

    def turns(self, pool: Pool) -> Turns:
        """Its queue."""
        window = None if self.batch_window_ms is None else self.batch_window_ms / 1e3
        return Turns(pool, self.queue, self.queue_each, window)

    def arguments(self) -> list[str]:
        """These options as arguments of `lsplit host`."""
        pairs = zip(self._fields, self, strict=True)
        given = {name: value for name, value in pairs if value != self._field_defaults[name]}
        return [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), str(value))]


HELP = {
    "max_clients": ("connections at once", "from 1 on"),
    "max_each": ("connections at once under one certificate", "from 1 on"),
    "memory_mb": ("megabytes of all sessions together; beyond it the longest idle is forgotten", "above 0"),
    "quota_mb": ("megabytes of one client's sessions", "above 0"),
    "forget_after": ("seconds until an idle session is forgotten", "above 0"),
    "queue": ("steps that wait at most", "from 1 on"),
    "queue_each": ("steps of one client that wait at most", "from 1 on"),
    "prefill_piece": ("positions of a long prompt at once while others have sessions; 0: all", "from 0 on"),
    "batch_window_ms": (
        "milliseconds that a next token waits at most for those of others, to join them",
        f"from 0 to {MOST_WINDOW}",
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a host that concern its clients among each other."""
    for name, (says, _) in HELP.items():
        default = Sharing._field_defaults[name]
        kind = int if isinstance(default, int) else float
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=default, help=says)


def sharing_of(args: argparse.Namespace) -> Sharing:
    """The options as they were given; raises UnsupportedOption."""
    return Sharing(*(getattr(args, name) for name in Sharing._fields)).check()
