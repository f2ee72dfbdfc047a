"""A wire that is made up: every token says itself through noise, and some documents are noisier than others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lsplit_kit.attacks.candidates import set_sizes
from lsplit_kit.attacks.posterior import fit_posterior
from lsplit_kit.measure.conformal import CandidateSet, candidate_set, conformal_threshold, mass_ahead

VOCABULARY, WIDTH, DOCUMENTS = 300, 16, 80


class Heard(NamedTuple):
    """An attack's scores [N, V], true tokens [N], document ids [N], and log of how often each token occurs [V]."""

    scores: np.ndarray
    truth: np.ndarray
    document: np.ndarray
    log_prior: np.ndarray

    def part(self, where: np.ndarray) -> Heard:
        """Only some of the tokens."""
        return Heard(self.scores[where], self.truth[where], self.document[where], self.log_prior)


def heard(noise: float = 0.7, shuffled: bool = False, sure: float = 8.0, seed: int = 0) -> Heard:
    """What an attack on a made-up wire hears; the same seed draws the same words.

    noise: its standard deviation in a usual document, in units of a token's own values. shuffled: the vectors are in
    another order than the words. sure: by how much the attack's scores are too large to be log likelihoods.
    """
    rng = np.random.default_rng(seed)
    often = 1 / np.arange(1, VOCABULARY + 1)
    often /= often.sum()
    lengths = rng.integers(20, 41, DOCUMENTS)
    document = np.repeat(np.arange(DOCUMENTS), lengths)
    truth = rng.choice(VOCABULARY, len(document), p=often)
    places = rng.normal(size=(VOCABULARY, WIDTH))
    louder = np.exp(0.5 * rng.normal(size=DOCUMENTS))[document, None]
    wire = places[truth] + noise * louder * rng.normal(size=(len(document), WIDTH))
    if shuffled:
        wire = rng.permutation(wire)
    away = np.square(wire[:, None] - places).sum(2)
    return Heard(-sure * away / (2 * max(noise, 0.1) ** 2), truth, document, np.log(often))


def log_prob_of(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Natural-log probability [N] that softmax(logits) [N, V] gives to the true tokens [N]."""
    own: np.ndarray = logits[np.arange(len(truth)), truth] - np.logaddexp.reduce(logits, 1)
    return own


def sets_of(new: Heard, known: Heard) -> CandidateSet:
    """Candidate sets for 95 % of the tokens of `new`, posterior and threshold fitted to `known`."""
    posterior = fit_posterior(known.scores, known.log_prior, known.truth)
    old, read = (posterior.read(part.scores, part.log_prior, part.truth) for part in (known, new))
    threshold = conformal_threshold(mass_ahead(old.mass, old.log_prob, old.rank))
    sizes = set_sizes(posterior.log_probs(new.scores, new.log_prior), threshold)
    return candidate_set(mass_ahead(read.mass, read.log_prob, read.rank), sizes, new.document, threshold)
