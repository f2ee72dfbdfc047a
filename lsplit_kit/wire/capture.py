"""What a tap recorded: a manifest and the payload bytes of every crossing, saved as safetensors. No prompt, no seed.

The truth that an attack is measured against is sealed: a file of its own, and nobody's but the reports'.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..card import Card
from ..errors import CaptureError
from .sealed import Sealed, Truth
from .tap import Crossing, said, seen_by
from .view import View, decoded, view

if TYPE_CHECKING:
    import pandas as pd

    from .tap import Tap

FORMAT = 2


@dataclass(frozen=True, repr=False)
class Capture(Card):
    """What an observer of the wire has: manifest and crossings, and their times where the link had a clock (`Tap`)."""

    manifest: dict
    crossings: tuple[Crossing, ...]
    clock: tuple[float, ...] = ()
    sealed: Sealed | None = None

    @classmethod
    def of(cls, tap: Tap, truth: Truth | None = None) -> Capture:
        """What a tap recorded so far; raises CaptureError when it never listened, or when `truth` holds no tensors."""
        from .. import __version__

        tap.check()
        remote = tap.remote
        info = remote.link.info
        manifest = {
            "format": FORMAT, "kit": __version__, "torch": torch.__version__, "fingerprint": info.fingerprint,
            "model": info.model, "layers": [info.start, info.stop], "width": info.width,
            "policy": remote.policy, "up": remote.up.spec, "down": remote.down.spec, "hosts": len(tap.hosts),
        }  # fmt: skip
        return cls(manifest, tuple(tap.crossings), tuple(tap.clock), None if truth is None else Sealed(truth))

    def save(self, path: str | Path) -> Path:
        """Write the capture, and its truth, if it has one, to `path` + `.truth`; raises CaptureError."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = Path(path)
        if path.is_dir():
            raise CaptureError(f"{path} is a folder; give the capture a file name in it, such as run.lsplit.")
        if not path.parent.is_dir():
            raise CaptureError(f"There is no folder {path.parent} to save the capture in; make it first.")
        rows = {
            "crossings": [[*c[:11], c.pads, *([c.rows] if c.rows else [])] for c in self.crossings],
            **({"clock": self.clock} if self.clock else {}),
        }
        tensors = {
            f"{i:06d}": torch.from_numpy(np.frombuffer(c.data, np.uint8).copy())
            for i, c in enumerate(self.crossings)
            if c.data
        }
        try:
            save_file(tensors, path, metadata={"lsplit": json.dumps({**self.manifest, **rows})})
            if self.sealed is not None:
                self.sealed.save(Path(f"{path}.truth"))
        except (OSError, SafetensorError) as err:
            raise CaptureError(f"{path} cannot be written ({err}).") from None
        return path

    @classmethod
    def load(cls, path: str | Path) -> Capture:
        """Read a capture; raises CaptureError when the file is missing, damaged or of another version."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                manifest = json.loads((file.metadata() or {})["lsplit"])
                if manifest["format"] != FORMAT:
                    raise CaptureError(f"{path}: capture format {manifest['format']}, this kit reads {FORMAT}.")
                data = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
                rows = [
                    Crossing(*[*row[:6], tuple(row[6]), *row[7:11], data.get(f"{i:06d}", b""), *map(_whole, row[11:])])
                    for i, row in enumerate(manifest.pop("crossings"))
                ]
                clock = tuple(map(float, manifest.pop("clock", ())))
                if len(clock) not in (0, len(rows)):
                    raise ValueError("a clock that does not fit the crossings")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as err:
            if isinstance(err, CaptureError):
                raise
            raise CaptureError(f"{path} is not a readable capture ({type(err).__name__}).") from None
        truth = Path(f"{path}.truth")
        return cls(manifest, tuple(rows), clock, Sealed.load(truth) if truth.exists() else None)

    def only(self, observer: str) -> Capture:
        """The capture that this observer could have made: without the payloads that it does not see.

        Raises UnsupportedOption for one that nobody knows.
        """
        seen = {c.direction for c in self.view(observer).crossings}
        return replace(
            self, crossings=tuple(c if c.direction in seen else c._replace(data=b"") for c in self.crossings)
        )

    def view(self, observer: str) -> View:
        """What `observer` has of it: "cloud", "eavesdrop_both", "eavesdrop_up" or "eavesdrop_down"."""
        return view(self, observer)

    def tensors(self, direction: str = "up") -> list[Tensor]:
        """The decoded tensors [B, T, d] of one direction, in order."""
        return [tensor for c, tensor in decoded(self.crossings) if c.direction == direction]

    def ledger(self) -> pd.DataFrame:
        """One row per crossing."""
        from .ledger import table

        return table(self.crossings)

    def totals(self) -> pd.DataFrame:
        """Tensor, payload and frame bytes by direction."""
        from .ledger import totals

        return totals(self.crossings)

    def _card(self) -> tuple[str, dict[str, object]]:
        m, values = self.manifest, sum(math.prod(c.shape) for c in self.crossings if c.codec)
        return f"Capture: {len(self.crossings)} crossings, {values:,} values", {
            "body": f"layers {m['layers'][0]} to {m['layers'][1] - 1} of {m['model']}",
            "codecs": f"{m['up']} up, {m['down']} down",
            "cache": m["policy"],
            **said(self.crossings),
            **seen_by(m.get("hosts", 1)),
        }


def _whole(numbers: list[int]) -> tuple[int, ...]:
    return tuple(map(int, numbers))
