"""Recorded captures of a few prompts, and what the ladder of attacks made of them: here they are only named."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..errors import UnsupportedOption

_FOLDER = Path(__file__).parent / "captures"


class Recording(NamedTuple):
    """A recording's name, model, layers before the cut, codec of what goes up, and files.

    path: the capture, its truth beside it; None where only reports are shipped. reports: as `attacks.recorded` reads.
    """

    name: str
    model: str
    depth: int
    codec: str
    path: Path | None
    reports: Path


class PictureRecording(NamedTuple):
    """A recording of pictures: model, mode, down blocks before the cut (None: at the denoiser), codec, and files.

    path: the capture, its truth beside it; None where only reports are shipped. reports: as
    `attacks.pictures.recorded` reads.
    """

    name: str
    model: str
    mode: str
    depth: int | None
    codec: str
    path: Path | None
    reports: Path

    @property
    def place(self) -> str:
        """Where the cut is, in words."""
        if self.depth is None:
            return f"at the denoiser, {self.mode}"
        return f"inside, {self.depth} + {self.depth} blocks local"


def captures() -> list[Recording]:
    """All recordings, by model, depth and codec; `scripts/record_captures.py` made them."""
    return list(_listed())


def capture(name: str) -> Recording:
    """The recording of a name, such as "smollm2.01.int8-token"; raises UnsupportedOption."""
    found = {recording.name: recording for recording in _listed()}
    if name not in found:
        raise UnsupportedOption(f"There is no recording {name!r}: it is one of {', '.join(found)}.")
    return found[name]


def picture_captures() -> list[PictureRecording]:
    """All recordings of pictures: at the denoiser first, then by depth; `scripts/record_pictures.py` made them."""
    return list(_pictures())


def picture_capture(name: str) -> PictureRecording:
    """The recording of pictures of a name, such as "emoji-ldm.lockstep.int8"; raises UnsupportedOption."""
    found = {recording.name: recording for recording in _pictures()}
    if name not in found:
        raise UnsupportedOption(f"There is no recording {name!r}: it is one of {', '.join(found)}.")
    return found[name]


def named_picture(model: str, mode: str, depth: int | None, codec: str) -> str:
    """The name of a recording of pictures."""
    return f"{model}.{mode if depth is None else f'inside-{depth}'}.{codec.replace(':', '-')}"


def named(model: str, depth: int, codec: str) -> str:
    """The name of a recording; ":" is no character for a file's name."""
    return f"{model}.{depth:02d}.{codec.replace(':', '-')}"


@cache
def _listed() -> tuple[Recording, ...]:
    found = []
    for reports in sorted(_FOLDER.glob("*.json")):
        model, depth, codec = reports.stem.split(".")
        path = reports.with_suffix(".lsplit")
        spec = codec.replace("-", ":", 1)
        found.append(Recording(reports.stem, model, int(depth), spec, path if path.exists() else None, reports))
    return tuple(found)


@cache
def _pictures() -> tuple[PictureRecording, ...]:
    found = []
    for reports in (_FOLDER / "pictures").glob("*.json"):
        model, way, codec = reports.stem.split(".")
        depth = int(way.removeprefix("inside-")) if way.startswith("inside-") else None
        path, mode = reports.with_suffix(".lsplit"), way if depth is None else "per_step"
        found.append(
            PictureRecording(reports.stem, model, mode, depth, codec.replace("-", ":", 1),
                             path if path.exists() else None, reports)
        )  # fmt: skip
    return tuple(sorted(found, key=lambda r: (-1 if r.depth is None else r.depth, r.name)))
