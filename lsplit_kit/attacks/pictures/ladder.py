"""Every attack on pictures that an observer may make, side by side: the rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sklearn.base import clone

from ...wire.capture import Capture
from ...wire.view import OBSERVERS
from ..knowledge import Knowledge
from .base import PictureAttack, cut_of
from .clean import CleanEstimate
from .fitted import FittedTelescope
from .inversion import HiddenInversion
from .replay import OwnReplay, ReplaySampler
from .report import report_pictures
from .telescope import Telescope

if TYPE_CHECKING:
    import pandas as pd


def usual_attacks(capture: Capture, guidance: float | None = None) -> dict[str, list[PictureAttack]]:
    """The attacks of each observer of a capture; guidance: what is known of the scale by who sees only what comes down.

    Of the cloud and of who hears both directions one is named: they see the same.
    """
    if cut_of(capture.view("cloud")):
        inversions: list[PictureAttack] = [HiddenInversion(iterations=0, queries=256), HiddenInversion()]
        return {"cloud": inversions, "eavesdrop_up": [clone(attack) for attack in inversions]}
    return {
        "cloud": [CleanEstimate(step=0), CleanEstimate(), ReplaySampler()],
        "eavesdrop_up": [OwnReplay()],
        "eavesdrop_down": [Telescope(guidance=guidance), FittedTelescope(guidance=guidance)],
    }


def ladder(
    capture: Capture, knowledge: Knowledge, attacks: Mapping[str, Sequence[PictureAttack]] | None = None
) -> pd.DataFrame:
    """One row per observer and attack (`PictureReport.row` and the attack's options); opens the truth to measure.

    attacks: by observer, `usual_attacks` if None; those that need more than this knowledge are left out.
    """
    import pandas as pd

    rows = []
    for observer, several in (attacks or usual_attacks(capture)).items():
        assert observer in OBSERVERS
        view = capture.view(observer)
        for attack in several:
            if all(map(knowledge.has, attack.requires)):
                found = attack.fit(view, knowledge).reconstruct(view)
                options = ", ".join(f"{k}={v}" for k, v in changed(attack).items())
                rows.append({**report_pictures(found, capture).row(), "options": options})
    return pd.DataFrame(rows)


def changed(attack: PictureAttack) -> dict[str, object]:
    """The options of an attack that are not its defaults."""
    usual = type(attack)().get_params()
    return {name: value for name, value in attack.get_params().items() if value is not usual[name] != value}
