"""Panels for notebooks: controls, figures and readouts; they hold no maths."""

from .cache_lab import CacheLab
from .picture_split import PictureSplit
from .quant_lab import QuantLab
from .split_explorer import SplitExplorer
from .wire_tap import WireTap

__all__ = ["CacheLab", "PictureSplit", "QuantLab", "SplitExplorer", "WireTap"]
