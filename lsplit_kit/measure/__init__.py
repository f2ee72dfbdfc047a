"""Measures: how far a split model's output is from the unsplit one's, what codecs and policies cost, and the time."""

from .budget import break_even, budget, fastest, pricing
from .latency import LatencyModel, Times, latency_model, timed_reply
from .moments import Moment, moments, story
from .outliers import channel_peaks
from .quality import difference, picture_quality
from .rate import bits_a_value, hidden_of, levels_of, noise_of, picture_run, rate_point
from .recompute import BodySize, body_flops, body_size, pass_flops
from .recorded import recorded, recorded_steps
from .stopwatch import Stopwatch
from .text import greedy_agreement, python_text, text_quality, token_ids
from .traffic import (
    cache_table,
    open_bytes,
    reaches,
    reduction,
    reply_bytes,
    reply_vectors,
    token_bytes,
    token_reduction,
    token_vectors,
)

__all__ = [
    "BodySize", "LatencyModel", "Moment", "Stopwatch", "Times", "bits_a_value", "body_flops", "body_size", "break_even",
    "budget", "cache_table", "channel_peaks", "difference", "fastest", "greedy_agreement", "hidden_of", "latency_model",
    "levels_of", "moments", "noise_of", "open_bytes", "pass_flops", "picture_quality", "picture_run", "pricing",
    "python_text", "rate_point", "reaches", "recorded", "recorded_steps", "reduction", "reply_bytes", "reply_vectors",
    "story", "text_quality", "timed_reply", "token_bytes", "token_ids", "token_reduction", "token_vectors",
]  # fmt: skip
