"""Measures: how far a split model's picture or text is from the unsplit one's."""

from .quality import picture_quality
from .text import greedy_agreement, python_text, text_quality, token_ids

__all__ = ["greedy_agreement", "picture_quality", "python_text", "text_quality", "token_ids"]
