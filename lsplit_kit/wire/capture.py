"""A saved tap: safetensors with the payload bytes of every crossing and a manifest. No prompt, no seed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..card import Card
from ..errors import CaptureError
from ..quantization import Codec, Encoded, codec
from .tap import Crossing, said

if TYPE_CHECKING:
    import pandas as pd

    from .tap import Tap

FORMAT = 2


def save(tap: Tap, path: Path, truth: dict | None) -> Path:
    """Write a tap's crossings to `path`, and `truth` (name -> tensor) to `path` + `.truth`; raises CaptureError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from .. import __version__

    if path.is_dir():
        raise CaptureError(f"{path} is a folder; give the capture a file name in it, such as run.lsplit.")
    if not path.parent.is_dir():
        raise CaptureError(f"There is no folder {path.parent} to save the capture in; make it first.")
    if truth is not None and not (isinstance(truth, dict) and all(isinstance(v, Tensor) for v in truth.values())):
        raise CaptureError("truth takes a dict of tensors, such as {'input_ids': ids}.")
    remote = tap.remote
    info = remote.link.info
    manifest = {
        "format": FORMAT, "kit": __version__, "torch": torch.__version__, "fingerprint": info.fingerprint,
        "model": info.model, "layers": [info.start, info.stop], "width": info.width,
        "policy": remote.policy, "up": remote.up.spec, "down": remote.down.spec,
        "crossings": [c[:-1] for c in tap.crossings],
        **({"clock": tap.clock} if tap.clock else {}),
    }  # fmt: skip
    tensors = {
        f"{i:06d}": torch.from_numpy(np.frombuffer(c.data, np.uint8).copy())
        for i, c in enumerate(tap.crossings)
        if c.data
    }
    try:
        save_file(tensors, path, metadata={"lsplit": json.dumps(manifest)})
        if truth is not None:
            save_file({k: v.contiguous() for k, v in truth.items()}, Path(f"{path}.truth"))
    except (OSError, SafetensorError) as err:
        raise CaptureError(f"{path} cannot be written ({err}).") from None
    return path


@dataclass(frozen=True, repr=False)
class Capture(Card):
    """What an observer of the wire has: manifest and crossings, and their times where the link had a clock (`Tap`)."""

    manifest: dict
    crossings: tuple[Crossing, ...]
    clock: tuple[float, ...] = ()

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
                    Crossing._make([*row[:6], tuple(row[6]), *row[7:], data.get(f"{i:06d}", b"")])
                    for i, row in enumerate(manifest.pop("crossings"))
                ]
                clock = tuple(map(float, manifest.pop("clock", ())))
                if len(clock) not in (0, len(rows)):
                    raise ValueError("a clock that does not fit the crossings")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as err:
            if isinstance(err, CaptureError):
                raise
            raise CaptureError(f"{path} is not a readable capture ({type(err).__name__}).") from None
        return cls(manifest, tuple(rows), clock)

    def tensors(self, direction: str = "up") -> list[Tensor]:
        """The decoded tensors [B, T, d] of one direction, in order."""
        coders: dict[tuple, Codec] = {}
        found = []
        for c in self.crossings:
            if c.direction == direction and c.codec and not c.codec.startswith(("raw:", "whole:")):
                key = (c.session, c.name)
                if key not in coders or c.kind == "replay":  # a session that was begun anew has no past
                    coders[key] = codec(c.codec).coder()
                found.append(coders[key].decode(Encoded(c.codec, c.shape, c.data)))
        return found

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
        }
