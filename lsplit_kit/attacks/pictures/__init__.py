"""Attacks on pictures: what an observer of a diffusion model's wire paints, and reads of the prompt."""

from .base import Painted, PictureAttack, picture_knowledge
from .clean import CleanEstimate
from .fitted import FittedTelescope
from .inversion import HiddenInversion
from .painted import Strip, paint, strongest
from .prior import MeanPicture
from .prompt import PromptMatch
from .record import record_picture
from .replay import OwnReplay, ReplaySampler
from .report import PictureReport, prompts_exact, report_pictures
from .telescope import Telescope

__all__ = [
    "CleanEstimate", "FittedTelescope", "HiddenInversion", "MeanPicture", "OwnReplay", "Painted", "PictureAttack",
    "PictureReport", "PromptMatch", "ReplaySampler", "Strip", "Telescope", "paint", "picture_knowledge",
    "prompts_exact", "record_picture", "report_pictures", "strongest",
]  # fmt: skip
