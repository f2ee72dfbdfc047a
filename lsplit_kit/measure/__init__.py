"""Measures: how far a split model's picture or text is from the unsplit one's, what a codec costs, and the time."""

from .budget import break_even, budget, fastest, pricing
from .latency import LatencyModel, Times, latency_model, timed_reply
from .outliers import channel_peaks
from .quality import difference, picture_quality
from .rate import bits_a_value, hidden_of, levels_of, noise_of, picture_run, rate_point
from .recorded import recorded, recorded_steps
from .stopwatch import Stopwatch
from .text import greedy_agreement, python_text, text_quality, token_ids

__all__ = [
    "break_even", "budget", "fastest", "pricing", "recorded", "recorded_steps",
    "LatencyModel", "Stopwatch", "Times", "latency_model", "timed_reply",
    "bits_a_value", "channel_peaks", "difference", "greedy_agreement", "hidden_of", "levels_of", "noise_of",
    "picture_quality", "picture_run", "python_text", "rate_point", "text_quality", "token_ids",
]  # fmt: skip
