"""Texts to fit, calibrate and test inversion attacks on: prompts, canaries, topics of Python; and recordings."""

from .canaries import Canary, canaries, candidate, names, space
from .captures import PictureRecording, Recording, capture, captures, picture_capture, picture_captures
from .prompts import DOMAINS, Prompt, prompts
from .topics import Topic, topics

__all__ = [
    "DOMAINS", "Canary", "PictureRecording", "Prompt", "Recording", "Topic", "canaries", "candidate", "capture",
    "captures", "names", "picture_capture", "picture_captures", "prompts", "space", "topics",
]  # fmt: skip
