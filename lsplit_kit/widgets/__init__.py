"""Panels for notebooks: controls, figures and readouts; they hold no maths."""

from .link_lab import LinkLab
from .picture_split import PictureSplit
from .quant_lab import QuantLab
from .split_explorer import SplitExplorer

__all__ = ["LinkLab", "PictureSplit", "QuantLab", "SplitExplorer"]
