"""Recorded captures of a few prompts, and what the ladder of attacks made of them: here they are only named."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..errors import UnsupportedOption

_FOLDER = Path(__file__).parent / "captures"


class Recording(NamedTuple):
    """A recording's name, model, layers before the cut, codec of what goes up, and files.

    Of one that is attacked downward, layers behind the body and the codec of what comes down. path: the capture, its
    truth beside it; None where only reports are shipped. reports: as `attacks.recorded` reads.
    """

    name: str
    model: str
    depth: int
    codec: str
    path: Path | None
    reports: Path
    direction: str = "up"


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


def captures(direction: str = "up") -> list[Recording]:
    """All recordings attacked in a direction, by model, depth and codec; `scripts/record_captures.py` made them."""
    return [recording for recording in _listed() if recording.direction == direction]


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


def named(model: str, depth: int, codec: str, direction: str = "up") -> str:
    """The name of a recording; ":" is no character for a file's name."""
    return f"{model}.{'' if direction == 'up' else 'tail-'}{depth:02d}.{codec.replace(':', '-')}"


@cache
def _listed() -> tuple[Recording, ...]:
    found = []
    for reports in sorted(_FOLDER.glob("*.json")):
        model, cut, codec = reports.stem.split(".")
        path, depth = reports.with_suffix(".lsplit"), cut.removeprefix("tail-")
        found.append(
            Recording(reports.stem, model, int(depth), codec.replace("-", ":", 1), path if path.exists() else None,
                      reports, "up" if depth == cut else "down")
        )  # fmt: skip
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
