"""A wire that is made up: every token says itself through noise, and some documents are noisier than others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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
