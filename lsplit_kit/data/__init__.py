"""Texts to fit, calibrate and test inversion attacks on: prompts, canaries, and the help topics of Python."""

from .canaries import Canary, canaries, candidate, names, space
from .prompts import DOMAINS, Prompt, prompts
from .topics import Topic, topics

__all__ = ["DOMAINS", "Canary", "Prompt", "Topic", "canaries", "candidate", "names", "prompts", "space", "topics"]
