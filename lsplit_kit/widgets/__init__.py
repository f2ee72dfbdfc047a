"""Panels for notebooks: controls, figures and readouts; they hold no maths."""

from .split_explorer import SplitExplorer

__all__ = ["SplitExplorer"]
