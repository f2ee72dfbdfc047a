"""Measures: how far a split model's output is from the unsplit one's, what codecs and policies cost, the time, and
what an attack reads."""

from .alarms import Verdict, depth_zero, monotone, shuffled_wire
from .budget import break_even, budget, fastest, pricing
from .canaries import CanaryLeak, canary_leak
from .ceilings import codec_capacity, fano_accuracy, fano_entropy, gaussian_capacity, min_entropy_leakage
from .conformal import CandidateSet, candidate_set, conformal_threshold, mass_ahead
from .latency import LatencyModel, Times, latency_model, timed_reply
from .leakage import Difference, Leak, leak_bits, leak_difference, leak_table, matched_log_prob
from .moments import Moment, moments, story
from .outliers import channel_peaks
from .quality import difference, picture_quality
from .rate import bits_a_value, hidden_of, levels_of, noise_of, picture_run, rate_point
from .recompute import BodySize, body_flops, body_size, pass_flops
from .recorded import recorded, recorded_steps
from .resample import mean_by_document
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
    "BodySize", "CanaryLeak", "CandidateSet", "Difference", "LatencyModel", "Leak", "Moment", "Stopwatch", "Times",
    "Verdict", "bits_a_value", "body_flops", "body_size", "break_even", "budget", "cache_table", "canary_leak",
    "candidate_set", "channel_peaks", "codec_capacity", "conformal_threshold", "depth_zero", "difference",
    "fano_accuracy", "fano_entropy", "fastest", "gaussian_capacity", "greedy_agreement", "hidden_of", "latency_model",
    "leak_bits", "leak_difference", "leak_table", "levels_of", "mass_ahead", "matched_log_prob", "mean_by_document",
    "min_entropy_leakage", "moments", "monotone", "noise_of", "open_bytes", "pass_flops", "picture_quality",
    "picture_run", "pricing", "python_text", "rate_point", "reaches", "recorded", "recorded_steps", "reduction",
    "reply_bytes", "reply_vectors", "shuffled_wire", "story", "text_quality", "timed_reply", "token_bytes", "token_ids",
    "token_reduction", "token_vectors",
]  # fmt: skip
