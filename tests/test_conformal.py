"""Candidate sets: they hold the truth as often as asked where texts are alike, and say so where they are not."""

import math

import numpy as np
import pytest
import torch

from lsplit_kit.attacks.candidates import read, set_sizes
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.measure.conformal import candidate_set, conformal_threshold, mass_ahead

VOCABULARY = 40


def posteriors(rng, tokens, sure=1.0, noise=1.0):
    """Log probabilities [N, V] and true tokens of uniform draws in Gaussian noise; Bayes' rule where both are 1."""
    truth = rng.integers(VOCABULARY, size=tokens)
    received = torch.from_numpy(truth + 3 * noise * rng.normal(size=tokens))[:, None]
    scores = -((received - torch.arange(VOCABULARY)) ** 2) / 18
    return (sure * scores).log_softmax(1).float(), truth


def ahead(got):
    return mass_ahead(got.mass, got.log_prob, got.rank)


def measured(sure=1.0, noise=1.0):
    """Calibrated on one text, measured on another that is as noisy, or noisier."""
    rng = np.random.default_rng(0)
    log_probs, truth = posteriors(rng, 2000, sure)
    threshold = conformal_threshold(ahead(read([log_probs], truth)))
    log_probs, truth = posteriors(rng, 6000, sure, noise)
    sizes = set_sizes([log_probs], threshold)
    return candidate_set(ahead(read([log_probs], truth)), sizes, np.arange(6000) // 20, threshold)


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


@pytest.mark.parametrize("own", [False, True])
def test_the_truth_is_held_where_its_rank_is_at_most_the_size(own):
    log_probs, truth = posteriors(np.random.default_rng(0), 1000)
    got = read([log_probs], truth)
    sizes = set_sizes([log_probs], 0.9, own)
    found = candidate_set(got.mass if own else ahead(got), sizes, np.arange(1000), 0.9)
    assert found.coverage == (got.rank <= sizes).mean()
    assert (found.median, found.mean) == (np.median(sizes), sizes.mean())


def test_an_attack_that_is_nearly_always_right_and_sure_leaves_one_candidate():
    """Of a hundred tokens four are read wrong, with the truth in third place; all are as sure as can be."""
    row = torch.tensor([0.97, 0.02, 0.01]).log()
    log_probs, truth = row.repeat(100, 1), np.where(np.arange(100) < 4, 2, 0)
    got = read([log_probs], truth)
    threshold = conformal_threshold(ahead(got))
    found = candidate_set(ahead(got), set_sizes([log_probs], threshold), np.arange(100), threshold)
    assert threshold < 1e-5 and (found.median, found.mean, found.coverage) == (1, 1, 0.96)


def test_own_probability_in_the_mass_makes_sets_of_unsure_tokens_large():
    """Nine tokens in ten are read surely and rightly, the tenth is one of two; there are forty."""
    rest = torch.arange(VOCABULARY - 2, 0, -1.0)
    sure, unsure = torch.cat([torch.tensor([1e6, 100.0]), rest]), torch.cat([torch.tensor([3400.0, 3250.0]), rest])
    sure, unsure = sure / sure.sum(), unsure / unsure.sum()
    log_probs = torch.stack([sure] * 9 + [unsure]).repeat(50, 1).log()
    truth = np.tile([0] * 9 + [1], 50)
    got = read([log_probs], truth)
    sizes = {}
    for own, mass in ((False, ahead(got)), (True, got.mass)):
        threshold = conformal_threshold(mass)
        sizes[own] = set_sizes([log_probs], threshold, own)
        assert candidate_set(mass, sizes[own], np.arange(500), threshold).coverage >= 0.95
    assert sizes[False].max() == 2 and sizes[True].max() > 30


def test_the_threshold_is_a_rank():
    masses = np.arange(1, 100) / 100
    assert conformal_threshold(masses[::-1]) == pytest.approx(0.95, abs=1e-5)
    assert conformal_threshold(masses, 0.5) == pytest.approx(0.5, abs=1e-5)
    assert conformal_threshold(masses[:19]) == pytest.approx(0.19, abs=1e-5)
    assert conformal_threshold(masses[:18]) == math.inf


def test_ahead_of_a_best_guess_is_exactly_nothing():
    log_probs, truth = posteriors(np.random.default_rng(0), 1000)
    got = read([log_probs], truth)
    mass = ahead(got)
    assert ((mass == 0) == got.right).all() and 0 < got.right.mean() < 1
    chances = log_probs.double().exp().numpy()
    others = np.where(chances > chances[np.arange(1000), truth][:, None], chances, 0).sum(1)
    assert mass == pytest.approx(others, abs=1e-6)


def test_what_is_printed_names_tokens_and_documents():
    text = repr(measured())
    assert "95%" in text and "6000 tokens of 300 documents" in text and "median" in text


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: conformal_threshold([]), "one number for each token"),
        (lambda: conformal_threshold([1.2]), "from 0 to 1"),
        (lambda: conformal_threshold([0.5], 1.0), "level lies between"),
        (lambda: candidate_set([0.5], [1, 1], [0], 0.9), "1 masses and 2 sizes"),
        (lambda: candidate_set([0.5], [1], [0, 1], 0.9), "1 tokens"),
        (lambda: mass_ahead([0.5], [-1.0], [1, 2]), "1 masses, 1, and 2 ranks"),
    ],
)
def test_mistakes_get_a_sentence(call, said):
    with pytest.raises(UnsupportedOption, match=said):
        call()
