"""What an observer could paint of a picture while it is made, and when it all was on the wire."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...card import Card
from ...errors import UnsupportedOption
from ...wire.capture import Capture
from ...wire.view import OBSERVERS
from ..knowledge import Knowledge
from .base import Painted, PictureAttack, cut_of
from .fitted import FittedTelescope
from .inversion import HiddenInversion
from .replay import OwnReplay, ReplaySampler
from .report import compared, opened
from .telescope import Telescope


@dataclass(frozen=True, repr=False)
class Strip(Card):
    """Pictures uint8 [H, W, 3] that an observer could paint after each call, and the one it ends with.

    calls: after which calls (0, 1, ...). psnr, ssim: of each beside the learner's picture `truth`, where there is one.
    """

    observer: str
    attack: str
    pictures: list[np.ndarray]
    calls: list[int]
    final: np.ndarray
    truth: np.ndarray | None = None
    psnr: list[float] | None = None
    ssim: list[float] | None = None

    def _card(self) -> tuple[str, dict[str, object]]:
        facts: dict[str, object] = {"attack": self.attack, "pictures": len(self.pictures)}
        if self.psnr:
            facts["PSNR"] = f"{self.psnr[0]:.1f} dB after call {self.calls[0] + 1}, {self.psnr[-1]:.1f} dB at the end"
        return f"What {self.observer} could paint", facts


def strongest(capture: Capture, observer: str, knowledge: Knowledge, guidance: float | None = None) -> PictureAttack:
    """The attack that paints best for an observer of this capture, as far as this knowledge goes.

    Raises UnsupportedOption for an observer who sees too little.
    """
    view = capture.view(observer)
    sees = OBSERVERS[observer]
    if cut_of(view):
        if "up" not in sees:
            raise UnsupportedOption("What comes down of a cut inside means nothing without what went up.")
        return HiddenInversion(calls=view_calls(capture), guidance=guidance)
    if sees == ("up",):
        return OwnReplay(guidance=guidance)
    if sees == ("down",):
        can = all(map(knowledge.has, FittedTelescope.requires))
        return FittedTelescope(guidance=guidance) if can else Telescope(guidance=guidance)
    return ReplaySampler(guidance=guidance)


def view_calls(capture: Capture) -> int:
    """How many calls the longest session of a capture has."""
    return max((c.step for c in capture.crossings), default=0)


def paint(
    capture: Capture,
    observer: str,
    knowledge: Knowledge,
    number: int = 0,
    *,
    attack: PictureAttack | None = None,
    guidance: float | None = None,
) -> Strip:
    """The pictures that `observer` could paint of one picture, step by step, beside the learner's if it is sealed.

    attack: by default the strongest for the observer. Opens the capture's truth, only to measure. Raises
    UnsupportedOption for a picture that is not there or an observer who sees too little, NeedsKnowledge.
    """
    view = capture.view(observer)
    attack = attack or strongest(capture, observer, knowledge, guidance)
    found: Painted = attack.fit(view, knowledge).reconstruct(view)
    if not 0 <= number < len(found.pictures):
        raise UnsupportedOption(f"There are {len(found.pictures)} pictures, numbered from 0; there is no {number}.")
    strip = found.strip(number)
    first = view_calls(capture) - len(strip)
    calls = [first + i for i in range(len(strip))]
    truth, psnr, ssim = None, None, None
    if capture.sealed is not None:
        truth = opened(capture)["picture"][number].numpy()
        pairs = [compared(picture, truth) for picture in strip]
        psnr, ssim = [a for a, _ in pairs], [b for _, b in pairs]
    return Strip(observer, found.attack, strip, calls, found.pictures[number], truth, psnr, ssim)
