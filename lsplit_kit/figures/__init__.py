"""Figures: data in, plotly figure out, each with a PNG twin and one sentence that says what it shows."""

from .exactness import exactness_alt, exactness_figure, exactness_png
from .picture import picture_alt, picture_html, picture_png
from .show import Shown, show
from .stack import stack_alt, stack_png, stack_svg
from .strip import strip, strip_png

__all__ = [
    "Shown", "exactness_alt", "exactness_figure", "exactness_png", "show", "stack_alt", "stack_png", "stack_svg",
    "picture_alt", "picture_html", "picture_png", "strip", "strip_png",
]  # fmt: skip
