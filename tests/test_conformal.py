"""Candidate sets: they hold the truth as often as asked where texts are alike, and say so where they are not."""

import math

import numpy as np
import pytest
import torch

from lsplit_kit.attacks.candidates import read, set_sizes
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.measure.conformal import candidate_set, conformal_threshold

VOCABULARY = 40


def posteriors(rng, tokens, sure=1.0, noise=1.0):
    """Log probabilities [N, V] and true tokens of uniform draws in Gaussian noise; Bayes' rule where both are 1."""
    truth = rng.integers(VOCABULARY, size=tokens)
    received = torch.from_numpy(truth + 3 * noise * rng.normal(size=tokens))[:, None]
    scores = -((received - torch.arange(VOCABULARY)) ** 2) / 18
    return (sure * scores).log_softmax(1).float(), truth


def measured(sure=1.0, noise=1.0):
    """Calibrated on one text, measured on another that is as noisy, or noisier."""
    rng = np.random.default_rng(0)
    log_probs, truth = posteriors(rng, 2000, sure)
    threshold = conformal_threshold(read([log_probs], truth).mass)
    log_probs, truth = posteriors(rng, 6000, sure, noise)
    got = read([log_probs], truth)
    return candidate_set(got.mass, got.rank, set_sizes([log_probs], threshold), np.arange(6000) // 20, threshold)


@pytest.mark.parametrize("sure", [1.0, 6.0, 0.1])
def test_sets_cover_whatever_the_posterior_is_worth(sure):
    found = measured(sure)
    assert found.coverage == pytest.approx(0.95, abs=0.015) and not found.drifted
    assert found.interval.low < found.coverage < found.interval.high
    assert (found.tokens, found.documents) == (6000, 300)


def test_coverage_drifts_where_the_texts_are_not_alike_and_that_is_said():
    found = measured(noise=1.6)
    assert found.coverage < 0.85 and found.drifted


def test_over_many_calibrations_coverage_is_what_was_asked_for():
    rng, hits = np.random.default_rng(0), []
    for _ in range(400):
        masses = rng.random(200)
        threshold = conformal_threshold(masses[:99])
        hits.append((masses[99:] <= threshold).mean())
    assert np.mean(hits) == pytest.approx(0.95, abs=0.005)  # the 95th of 100


def test_a_set_is_as_large_as_its_truth_is_far_down():
    """Every token within the threshold is a candidate: the truth is held where its rank is at most the size."""
    log_probs, truth = posteriors(np.random.default_rng(0), 1000)
    got = read([log_probs], truth)
    sizes = set_sizes([log_probs], 0.9)
    found = candidate_set(got.mass, got.rank, sizes, np.arange(1000), 0.9)
    assert found.coverage == (got.rank <= sizes).mean()
    assert (found.median, found.mean) == (np.median(sizes), sizes.mean())


def test_the_threshold_is_a_rank():
    masses = np.arange(1, 100) / 100
    assert conformal_threshold(masses[::-1]) == 0.95
    assert conformal_threshold(masses, 0.5) == 0.5
    assert conformal_threshold(masses[:19]) == 0.19 and conformal_threshold(masses[:18]) == math.inf


def test_the_best_guess_is_a_candidate_however_sure_it_is():
    found = candidate_set([0.999, 0.9999], [1, 2], [1, 1], [0, 1], 0.99)
    assert found.coverage == 0.5


def test_what_is_printed_names_tokens_and_documents():
    text = repr(measured())
    assert "95%" in text and "6000 tokens of 300 documents" in text and "median" in text


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: conformal_threshold([]), "one number for each token"),
        (lambda: conformal_threshold([1.2]), "from 0 to 1"),
        (lambda: conformal_threshold([0.5], 1.0), "level lies between"),
        (lambda: candidate_set([0.5], [1], [1, 1], [0], 0.9), "1 masses, 1 ranks, 2 sizes"),
        (lambda: candidate_set([0.5], [1], [1], [0, 1], 0.9), "1 tokens"),
    ],
)
def test_mistakes_get_a_sentence(call, said):
    with pytest.raises(UnsupportedOption, match=said):
        call()
