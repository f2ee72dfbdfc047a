"""Panels for notebooks: controls, figures and readouts; they hold no maths."""

from .attack_arena import AttackArena
from .cache_lab import CacheLab
from .link_lab import LinkLab
from .picture_split import PictureSplit
from .quant_lab import QuantLab
from .split_explorer import SplitExplorer
from .wire_tap import WireTap

__all__ = ["AttackArena", "CacheLab", "LinkLab", "PictureSplit", "QuantLab", "SplitExplorer", "WireTap"]
