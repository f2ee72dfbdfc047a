"""Bounds: canaries from below, Fano, codec and noise from above, each where the exact answer is known."""

import math

import numpy as np
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.measure.canaries import canary_leak
from lsplit_kit.measure.ceilings import (
    codec_capacity,
    fano_accuracy,
    fano_entropy,
    gaussian_capacity,
    min_entropy_leakage,
)


def entropy(*p):
    return -sum(x * math.log2(x) for x in p if x)


def erased(rng, secrets, lost=0.25, bits=10):
    """Log probabilities of secrets behind an erasure channel, under Bayes' rule: 0 or -log M."""
    return np.where(rng.random(secrets) < lost, -bits * math.log(2), 0.0)


def test_canaries_bound_the_information_of_an_erasure_channel_from_below():
    found = canary_leak(erased(np.random.default_rng(0), 4000), bits=10)
    assert found.bits == pytest.approx(7.5, abs=2.5 * found.error) and found.lower < 7.5
    assert found.interval.low < 7.5 < found.interval.high
    assert found.share == pytest.approx(found.bits / 10) and "4000 secrets" in repr(found)


def test_the_bound_is_hoeffdings():
    found = canary_leak([0.0, -math.log(1024)] * 50, bits=10, eps=0.01, level=0.9)
    gains = [10 + math.log2(0.99 + 0.01 / 1024), 10 + math.log2(0.99 / 1024 + 0.01 / 1024)]
    assert found.bits == pytest.approx(np.mean(gains))
    assert found.bits - found.lower == pytest.approx((10 + math.log2(100)) * math.sqrt(math.log(10) / 200))


@pytest.mark.parametrize("wrong", [0.5, 0.1])
def test_the_bound_fails_no_more_often_than_it_says_in_its_worst_case(wrong):
    """Each secret read with certainty, or ruled out: terms as far apart as eps lets them be."""
    rng, level, failed, beyond_mean = np.random.default_rng(0), 0.8, 0, 0
    sure, lost = (20 + math.log2(p) for p in (0.99 + 0.01 / 2**20, 0.01 / 2**20))
    expected = (1 - wrong) * sure + wrong * lost
    for _ in range(400):
        log_prob = np.where(rng.random(100) < wrong, -math.inf, 0.0)
        found = canary_leak(log_prob, bits=20, level=level, resamples=2)
        failed += found.lower > expected
        beyond_mean += found.bits > expected
    assert failed / 400 <= 1 - level < beyond_mean / 400


def test_an_attack_that_is_always_surely_wrong_loses_no_more_than_eps_allows():
    found = canary_leak(np.full(50, -math.inf), bits=20, eps=0.01)
    assert found.bits == pytest.approx(math.log2(0.01)) and found.lower < found.bits


def test_canaries_of_different_lists_are_measured_together():
    found = canary_leak([0.0, 0.0], bits=[4, 12], eps=0.5)
    assert found.entropy == 8 and found.bits == pytest.approx(8 + np.log2([0.5 + 2**-5, 0.5 + 2**-13]).mean())
    width = math.sqrt(5**2 + 13**2)
    assert found.bits - found.lower == pytest.approx(width * math.sqrt(math.log(20) / 2) / 2)


@pytest.mark.parametrize("vocabulary", [2, 64, 49152])
def test_fano_is_exact_at_both_ends(vocabulary):
    assert fano_entropy(1.0, vocabulary) == 0
    assert fano_entropy(1 / vocabulary, vocabulary) == pytest.approx(math.log2(vocabulary))
    assert fano_accuracy(0, math.log2(vocabulary), vocabulary) == pytest.approx(1 / vocabulary, rel=1e-3)
    assert fano_accuracy(math.log2(vocabulary), math.log2(vocabulary), vocabulary) == 1


def test_fano_is_an_equality_for_a_symmetric_channel_and_a_bound_for_an_erasure():
    flip, size = 0.2, 16
    assert fano_entropy(1 - flip, size) == pytest.approx(entropy(flip, 1 - flip) + flip * math.log2(size - 1))
    lost = 0.3  # guessing where the symbol is lost
    assert fano_entropy(1 - lost + lost / 64, 64) > lost * 6


@pytest.mark.parametrize("capacity", [0.5, 3.0, 5.5])
def test_the_ceiling_on_accuracy_inverts_fano(capacity):
    accuracy = fano_accuracy(capacity, 6.0, 64)
    assert 1 / 64 < accuracy < 1 and fano_entropy(accuracy, 64) == pytest.approx(6.0 - capacity)
    assert accuracy < fano_accuracy(capacity + 0.1, 6.0, 64)
    assert accuracy >= capacity / 6  # what an erasure channel of this capacity lets through
    assert fano_accuracy(7.0, 6.0, 64) == 1


def test_min_entropy_leakage_counts_one_guess():
    assert min_entropy_leakage(1.0, 1 / 64) == 6
    assert min_entropy_leakage(0.25, 0.25) == 0 and min_entropy_leakage(0.0, 0.1) == -math.inf


def test_a_codec_carries_eight_bits_a_byte():
    tokens, width = 7, 64
    hidden = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0))
    payload = len(lk.codec("int4:token").encode(hidden).payload)
    assert codec_capacity(payload / tokens) == 8 * payload / tokens == 4 * width + 32
    assert codec_capacity([36, 36, 36]) == 288 and codec_capacity(0) == 0


def test_sizes_that_differ_tell_something_too():
    mean = 3.0
    sizes = np.arange(400)
    chances = (1 / (mean + 1)) * (mean / (mean + 1)) ** sizes  # the law of most entropy with this mean
    drawn = np.repeat(sizes, np.rint(chances * 1e6).astype(int))
    assert codec_capacity(drawn) == pytest.approx(8 * drawn.mean() + entropy(*chances), abs=1e-3)
    assert codec_capacity([2, 4]) >= 8 * 3 + 1  # one of two sizes is a bit


def test_noise_has_shannons_capacity():
    assert gaussian_capacity([[3.0]], 1.0) == pytest.approx(1.0)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = turn @ np.diag([3.0, 15.0, 0.0]) @ turn.T
    assert gaussian_capacity(turned, 1.0) == pytest.approx(3.0)
    assert gaussian_capacity(4 * turned, 2.0) == pytest.approx(3.0)
    assert gaussian_capacity(turned, 1.0) > gaussian_capacity(turned, 1.1)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 3.0])
def test_the_capacity_is_above_what_a_binary_input_tells(sigma):
    grid = np.linspace(-12 * sigma - 1, 12 * sigma + 1, 20001)
    density = sum(np.exp(-((grid - x) ** 2) / 2 / sigma**2) for x in (-1, 1)) / 2 / sigma / math.sqrt(2 * math.pi)
    received = -np.trapezoid(density * np.log2(np.maximum(density, 1e-300)), grid)
    information = received - math.log2(sigma * math.sqrt(2 * math.pi * math.e))
    capacity = gaussian_capacity([[1.0]], sigma)
    assert 0 < information < capacity
    assert sigma < 3 or information > 0.99 * capacity  # in loud noise a bit of input is all that matters


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: canary_leak([], 10), "each secret"),
        (lambda: canary_leak([0.5], 10), "none above 0"),
        (lambda: canary_leak([math.nan], 10), "each secret"),
        (lambda: canary_leak([-1.0], 0), "above 0"),
        (lambda: canary_leak([-1.0], [3, 3]), "above 0"),
        (lambda: canary_leak([-1.0], 10, eps=0), "between 0 and 1"),
        (lambda: canary_leak([-1.0], 10, level=1), "between 0 and 1"),
        (lambda: fano_entropy(1.1, 64), "share of tokens"),
        (lambda: fano_entropy(0.5, 1), "at least 2"),
        (lambda: fano_accuracy(-1, 5, 64), "0 bits or more"),
        (lambda: fano_accuracy(1, 7, 64), r"log2 V = 6\.00"),
        (lambda: min_entropy_leakage(0.5, 0), "now and then"),
        (lambda: min_entropy_leakage(-0.5, 0.1), "share of tokens"),
        (lambda: codec_capacity(-1), "0 or more"),
        (lambda: gaussian_capacity([[1.0, 0.0]], 1.0), "square"),
        (lambda: gaussian_capacity([[1.0]], 0.0), "without noise"),
        (lambda: gaussian_capacity([[1.0, 2.0], [2.0, 1.0]], 1.0), "negative eigenvalue"),
    ],
)
def test_mistakes_get_a_sentence(call, said):
    with pytest.raises(UnsupportedOption, match=said):
        call()
