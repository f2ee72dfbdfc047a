"""What was painted before: the strips of every attack in the recordings of pictures that the kit ships."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ...card import Card
from ...data.captures import PictureRecording, picture_capture
from ...errors import CaptureError, UnsupportedOption
from ...wire.capture import Capture
from ...wire.view import OBSERVERS, View
from ..attack import Cost
from .base import PictureAttack
from .clean import CleanEstimate
from .fitted import FittedTelescope
from .inversion import HiddenInversion
from .painted import Strip
from .prior import MeanPicture
from .replay import OwnReplay, ReplaySampler
from .telescope import Telescope

PAINTERS: dict[str, type[PictureAttack]] = {
    cls.__name__: cls
    for cls in (MeanPicture, CleanEstimate, ReplaySampler, OwnReplay, Telescope, FittedTelescope, HiddenInversion)
}
COLOURS = 255  # that a strip is kept with


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt, what `PromptMatch` read of it, whether every token was right, and CPU seconds a prompt."""

    prompt: str
    read: str
    exact: bool
    seconds: float


@dataclass(frozen=True, repr=False)
class RecordedPictures(Card):
    """A recording of pictures: strips by attack, in the order of the prompts, their costs, and the prompts read."""

    about: PictureRecording
    strips: dict[str, list[Strip]]
    costs: dict[str, Cost]
    prompts: list[ReadPrompt]

    @property
    def capture(self) -> Capture | None:
        """The capture, where it is shipped."""
        return None if self.about.path is None else Capture.load(self.about.path)

    def strip(self, attack: str, observer: str, number: int = 0) -> Strip:
        """What an attack painted; raises UnsupportedOption as the attack itself does, or for no such picture."""
        may_paint(attack, observer, self.about.depth)
        if not 0 <= number < len(self.prompts):
            raise UnsupportedOption(f"There are {len(self.prompts)} pictures, numbered from 0; there is no {number}.")
        return replace(self.strips[attack][number], observer=observer)

    def _card(self) -> tuple[str, dict[str, object]]:
        return f"Recording {self.about.name}", {
            "cut": self.about.place,
            "codec": self.about.codec,
            "capture": "shipped" if self.about.path else "not shipped, only what was painted",
            "pictures": len(self.prompts),
            "attacks": ", ".join(self.strips),
        }


def may_paint(attack: str, observer: str, depth: int | None) -> None:
    """Raise UnsupportedOption where an attack cannot run at this cut (None: at the denoiser) for this observer."""
    if attack not in PAINTERS:
        raise UnsupportedOption(f"Unknown attack {attack!r}; choose one of {', '.join(PAINTERS)}.")
    if observer not in OBSERVERS:
        raise UnsupportedOption(f"Unknown observer {observer!r}; choose one of {', '.join(OBSERVERS)}.")
    cls, view = PAINTERS[attack], View(observer, {}, (), (), {})
    cls.fits(0 if depth is None else depth + 1)
    for direction in filter(None, (cls.also, cls.reads)):
        view.check(direction)


@lru_cache(maxsize=8)
def recorded_pictures(name: str) -> RecordedPictures:
    """The recording of a name in `data.picture_captures()`; raises UnsupportedOption, CaptureError where damaged."""
    about = picture_capture(name)
    try:
        kept = json.loads(about.reports.read_text("utf-8"))
        sheets = [_cut(base64.b64decode(sheet)) for sheet in kept["sheets"]]
        truths = [sheets[index][0] for index in kept["learner"]]
        strips = {
            said["attack"]: [
                _strip(said, strip, sheets[strip["sheet"]], truth)
                for strip, truth in zip(said["strips"], truths, strict=True)
            ]
            for said in kept["said"]
        }
        costs = {said["attack"]: Cost(**said["cost"]) for said in kept["said"]}
        prompts = [ReadPrompt(**row) for row in kept["prompts"]]
    except (OSError, KeyError, TypeError, ValueError, IndexError) as err:
        raise CaptureError(f"{about.reports} holds no readable pictures ({type(err).__name__}).") from None
    return RecordedPictures(about, strips, costs, prompts)


def _strip(said: dict[str, Any], strip: dict[str, Any], pictures: list[np.ndarray], truth: np.ndarray) -> Strip:
    psnr = [math.inf if level is None else level for level in strip["psnr"]]
    # every strip is kept in colours of its own, so what is equal is shown as what it equals
    shown = [truth if math.isinf(level) else picture for picture, level in zip(pictures, psnr, strict=True)]
    return Strip("", said["attack"], shown, said["calls"], shown[-1], truth, psnr, strip["ssim"])


def dumped_pictures(strips: dict[str, Sequence[Strip]], costs: dict[str, Cost], prompts: Sequence[ReadPrompt]) -> str:
    """Strips by attack, each with its truth, as the JSON that `recorded_pictures` reads; levels are rounded."""
    sheets: dict[str, int] = {}

    def kept(pictures: Sequence[np.ndarray]) -> int:
        return sheets.setdefault(_sheet(pictures), len(sheets))

    learner = [kept([strip.truth]) for strip in next(iter(strips.values())) if strip.truth is not None]
    said: list[dict[str, Any]] = [
        {
            "attack": attack,
            "calls": several[0].calls,
            "cost": {name: round(value, 3) for name, value in asdict(costs[attack]).items()},
            "strips": [
                {
                    "sheet": kept(strip.pictures),
                    "psnr": [None if math.isinf(level) else round(level, 2) for level in strip.psnr or ()],
                    "ssim": [round(level, 4) for level in strip.ssim or ()],
                }
                for strip in several
            ],
        }
        for attack, several in strips.items()
    ]
    whole = {"prompts": [asdict(row) for row in prompts], "learner": learner, "said": said, "sheets": list(sheets)}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")) + "\n"


def _sheet(pictures: Sequence[np.ndarray]) -> str:
    """Pictures [H, W, 3] side by side, as the base64 of one PNG."""
    from PIL import Image

    out = io.BytesIO()
    row = Image.fromarray(np.concatenate(list(pictures), axis=1))
    row.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii")


def _cut(png: bytes) -> list[np.ndarray]:
    """The square pictures [H, H, 3] of such a PNG."""
    from PIL import Image

    row = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    return np.split(row, row.shape[1] // row.shape[0], axis=1)
