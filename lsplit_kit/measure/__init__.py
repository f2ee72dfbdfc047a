"""How good is what a split model makes: pictures beside their reference."""

from .quality import picture_quality

__all__ = ["picture_quality"]
