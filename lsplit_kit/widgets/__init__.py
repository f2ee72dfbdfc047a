"""Panels for notebooks: controls, figures and readouts; they hold no maths."""

from .attack_arena import AttackArena
from .cache_lab import CacheLab
from .host_monitor import HostMonitor
from .link_lab import LinkLab
from .picture_split import PictureSplit
from .quant_lab import QuantLab
from .split_explorer import SplitExplorer
from .wire_tap import WireTap

__all__ = ["AttackArena", "CacheLab", "HostMonitor", "LinkLab", "PictureSplit", "QuantLab", "SplitExplorer", "WireTap"]
