"""Attacks: what an observer of the wire, with declared knowledge, reads out of hidden tensors.

capture = record(lm, prompts)                              # the truth is sealed
view = capture.view("cloud")                               # who sees what
attack = VocabMatch().fit(view, Knowledge(model, tok, text=passages))
report(attack.reconstruct(view), capture)                  # the one place that opens the truth
"""

from .attack import Attack, Cost, Reconstruction
from .knowledge import Knowledge
from .layers import misfit
from .lda import PrototypeLDA
from .match import VocabMatch
from .nearest import NearestEmbedding
from .prior import PriorOnly
from .record import record
from .report import Report, report
from .ridge import Ridge

__all__ = [
    "Attack", "Cost", "Knowledge", "NearestEmbedding", "PriorOnly", "PrototypeLDA", "Reconstruction", "Report", "Ridge",
    "VocabMatch", "misfit", "record", "report",
]  # fmt: skip
