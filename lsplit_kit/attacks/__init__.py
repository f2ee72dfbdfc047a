"""Attacks: what an observer of the wire, with declared knowledge, reads out of hidden tensors.

capture = record(lm, prompts)                              # the truth is sealed
view = capture.view("cloud")                               # who sees what
attack = VocabMatch().fit(view, Knowledge(model, tok, text=passages))
report(attack.reconstruct(view), capture)                  # opens the truth, to compare
"""

from .attack import Attack, Cost, Reconstruction
from .knowledge import Knowledge
from .layers import misfit
from .lda import PrototypeLDA
from .logit_lens import LogitLens
from .match import VocabMatch
from .nearest import NearestEmbedding
from .prior import PriorOnly
from .record import noisy, record
from .report import Agreement, Report, agreement, report
from .ridge import Ridge
from .run_tail import RunTail
from .sequence import SequenceInverter
from .soft import SoftEmbedding
from .tuned_lens import TunedLens

__all__ = [
    "Agreement", "Attack", "Cost", "Knowledge", "LogitLens", "NearestEmbedding", "PriorOnly", "PrototypeLDA",
    "Reconstruction", "Report", "Ridge", "RunTail", "SequenceInverter", "SoftEmbedding", "TunedLens", "VocabMatch",
    "agreement", "misfit", "noisy", "record", "report",
]  # fmt: skip
