"""Figures: data in, plotly figure out, each with a PNG twin and one sentence that says what it shows."""

from .caches import caches
from .crossover import crossover, crossover_map
from .depths import depth_curves
from .exactness import exactness_alt, exactness_figure, exactness_png
from .painted import painted, painted_alt, painted_png
from .picture import picture_alt, picture_html, picture_png
from .quantization import channels, levels, rate_distortion
from .reading import reading
from .recomputed import recomputed
from .saving import cache_saving
from .show import Shown, show
from .stack import stack_alt, stack_png, stack_svg
from .strip import strip, strip_png
from .timing import deployment_bars

__all__ = [
    "Shown", "cache_saving", "caches", "channels", "crossover", "crossover_map", "deployment_bars", "depth_curves",
    "exactness_alt", "exactness_figure", "exactness_png", "levels", "painted", "painted_alt", "painted_png",
    "picture_alt", "picture_html", "picture_png", "rate_distortion", "reading", "recomputed", "show", "stack_alt",
    "stack_png", "stack_svg", "strip", "strip_png",
]  # fmt: skip
