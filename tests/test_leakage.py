"""Bits that an attack reads, on channels whose mutual information is known exactly."""

import math
from typing import NamedTuple

import numpy as np
import pytest

from lsplit_kit.attacks.posterior import fit_posterior
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.measure.alarms import depth_zero, monotone, shuffled_wire
from lsplit_kit.measure.leakage import leak_bits, leak_difference, leak_table, matched_log_prob
from lsplit_kit.measure.resample import mean_by_document

LN2 = math.log(2)


def entropy(*p):
    return -sum(x * math.log2(x) for x in p if x)


class Channel(NamedTuple):
    """log p(z | x) for every token x, [N, V]; the true tokens [N]; log p(x) [V]; bits of mutual information."""

    scores: np.ndarray
    truth: np.ndarray
    log_prior: np.ndarray
    information: float

    def posterior(self, tau=1.0):
        """Natural-log probability of the truth: Bayes' rule where tau is 1, over-confident where it is larger."""
        logits = tau * self.scores + self.log_prior
        return (logits - np.logaddexp.reduce(logits, 1, keepdims=True))[np.arange(len(self.truth)), self.truth]

    @property
    def prior(self):
        return self.log_prior[self.truth]

    def shuffled(self, seed=0):
        return self._replace(scores=np.random.default_rng(seed).permutation(self.scores), information=0.0)


def discrete(table, prior, tokens=6000, seed=0):
    """A channel with p(z | x) in the rows of a table."""
    rng, table, prior = np.random.default_rng(seed), np.asarray(table), np.asarray(prior)
    truth = rng.choice(len(prior), tokens, p=prior)
    seen = (rng.random(tokens)[:, None] > table.cumsum(1)[truth]).sum(1)
    joint = prior[:, None] * table
    information = entropy(*prior) + entropy(*joint.sum(0)) - entropy(*joint.ravel())
    return Channel(np.log(np.maximum(table.T[seen], 1e-300)), truth, np.log(prior), information)


def symmetric(flip, size=2):
    return discrete(np.full((size, size), flip / (size - 1)) + np.eye(size) * (1 - flip * size / (size - 1)),
                    np.full(size, 1 / size))  # fmt: skip


def erasure(lost, size=64):
    return discrete(np.hstack([np.eye(size) * (1 - lost), np.full((size, 1), lost)]), np.full(size, 1 / size))


def gaussian(sigma, seed=0, tokens=6000, prior=(0.4, 0.3, 0.1, 0.1, 0.05, 0.05)):
    """Points on a line in Gaussian noise; information by integration over what is received."""
    rng, places, prior = np.random.default_rng(seed), np.arange(len(prior), dtype=float), np.asarray(prior)
    truth = rng.choice(len(prior), tokens, p=prior)
    received = places[truth] + sigma * rng.normal(size=tokens)
    grid = np.linspace(-12 * sigma, places[-1] + 12 * sigma, 20001)
    density = np.exp(-((grid[:, None] - places) ** 2) / 2 / sigma**2) / sigma / math.sqrt(2 * math.pi) @ prior
    whole = -np.trapezoid(density * np.log2(np.maximum(density, 1e-300)), grid)
    information = whole - math.log2(sigma * math.sqrt(2 * math.pi * math.e))
    return Channel(-((received[:, None] - places) ** 2) / 2 / sigma**2, truth, np.log(prior), information)


CHANNELS = {
    "binary symmetric": (symmetric(0.11), 1 - entropy(0.11, 0.89)),
    "symmetric of 16": (symmetric(0.2, 16), 4 - entropy(0.2, 0.8) - 0.2 * math.log2(15)),
    "erasure of 64": (erasure(0.3), 0.7 * 6),
    "far Gaussians": (gaussian(0.05), entropy(0.4, 0.3, 0.1, 0.1, 0.05, 0.05)),
    "near Gaussians": (gaussian(1.0), None),
}
DOCUMENT = np.arange(6000) // 20


@pytest.mark.parametrize("name", CHANNELS)
def test_with_the_exact_posterior_the_leak_is_the_mutual_information(name):
    channel, known = CHANNELS[name]
    assert known is None or channel.information == pytest.approx(known, abs=1e-9)
    leak = leak_bits(channel.posterior(), channel.prior, DOCUMENT)
    assert leak.bits == pytest.approx(channel.information, abs=max(2.5 * leak.error, 1e-6))
    assert leak.h0 == pytest.approx(entropy(*np.exp(channel.log_prior)), abs=0.05)
    assert leak.ce == pytest.approx(leak.h0 - leak.bits) and leak.candidates == pytest.approx(2**leak.ce)
    assert leak.share == pytest.approx(leak.bits / leak.h0) and (leak.documents, leak.tokens) == (300, 6000)
    assert leak.interval.low <= leak.bits <= leak.interval.high


def test_a_shuffled_channel_reads_nothing_with_its_old_posterior():
    leak = leak_bits(symmetric(0.11).shuffled().posterior(), symmetric(0.11).prior, DOCUMENT)
    assert leak.bits == pytest.approx(1 + (math.log2(0.89) + math.log2(0.11)) / 2, abs=2.5 * leak.error)


def test_an_overconfident_posterior_reads_less_than_nothing_and_calibration_repairs_it():
    channel = gaussian(1.0)
    sharp = channel._replace(scores=20 * channel.scores)
    assert leak_bits(sharp.posterior(), channel.prior, DOCUMENT).interval.high < -1
    fitted = fit_posterior(sharp.scores[:3000], channel.log_prior, channel.truth[:3000])
    assert (fitted.tau, fitted.eps, fitted.weight) == (0.05, 1e-3, 1.0)
    read = fitted.read(sharp.scores[3000:], channel.log_prior, channel.truth[3000:])
    leak = leak_bits(read.log_prob, channel.prior[3000:], DOCUMENT[3000:])
    assert leak.bits == pytest.approx(channel.information, abs=2.5 * leak.error)


def test_a_shuffled_wire_raises_no_alarm_and_a_truth_that_leaks_does():
    shuffled = gaussian(0.3).shuffled()
    fitted = fit_posterior(shuffled.scores[:3000], shuffled.log_prior, shuffled.truth[:3000])
    read = fitted.read(shuffled.scores[3000:], shuffled.log_prior, shuffled.truth[3000:])
    verdict = shuffled_wire(leak_bits(read.log_prob, shuffled.prior[3000:], DOCUMENT[3000:]))
    assert verdict and verdict.numbers["bits"] == pytest.approx(0, abs=0.02)
    honest = gaussian(0.3)
    told = shuffled_wire(leak_bits(honest.posterior(), honest.prior, DOCUMENT))
    assert not told and "another way than the wire" in told.why and "ALARM" in repr(told)
    stale = shuffled_wire(leak_bits(shuffled.posterior(), shuffled.prior, DOCUMENT))
    assert not stale and "not fitted to this wire" in stale.why


def test_an_attack_that_keeps_to_the_prior_passes_as_a_shuffled_wire():
    prior = gaussian(0.3).prior
    leak = leak_bits(prior, prior, DOCUMENT)
    assert (leak.bits, leak.error) == (0, 0) and shuffled_wire(leak)


def test_depth_zero_wants_nearly_all_bits():
    assert depth_zero(leak_bits(gaussian(0.05).posterior(), gaussian(0.05).prior, DOCUMENT))
    weak = depth_zero(leak_bits(gaussian(0.5).posterior(), gaussian(0.5).prior, DOCUMENT))
    assert not weak and weak.numbers["bits"] < weak.numbers["least"] < weak.numbers["H0"]


def test_more_noise_reads_no_more_unless_the_family_is_too_weak():
    levels = {sigma: gaussian(sigma).posterior() for sigma in (0.2, 0.5, 1.0)}
    assert monotone(levels, DOCUMENT)
    weak = levels | {0.2: gaussian(0.2)._replace(scores=gaussian(2.0).scores).posterior()}
    alarm = monotone(weak, DOCUMENT)
    assert not alarm and "the attack at 0.2 is too weak" in alarm.why
    assert alarm.numbers["rise"] > 2 * alarm.numbers["standard error"] > 0


def test_a_rise_within_chance_is_no_alarm():
    flat = np.full(6000, -1.0)
    wave = np.where(np.arange(300) % 2, 0.3, -0.3)[DOCUMENT]
    for errors, holds in ((1.5, True), (2.5, False)):
        verdict = monotone({"clean": flat, "noisy": flat + wave + errors * 0.3 / math.sqrt(300)}, DOCUMENT)
        assert bool(verdict) == holds
        assert verdict.numbers["rise"] / verdict.numbers["standard error"] == pytest.approx(errors, rel=0.1)


def documents(rng, count=40):
    """Tokens of documents that are each a little harder or easier than the others; the true mean is 0."""
    sizes = rng.integers(5, 30, count)
    ids = np.repeat(np.arange(count), sizes)
    return rng.normal(size=count)[ids] + rng.normal(size=ids.size), ids


def covered(cluster, count=40):
    rng, hits = np.random.default_rng(1), 0
    for seed in range(200):
        values, ids = documents(rng, count)
        low, high = mean_by_document(values, ids if cluster else np.arange(ids.size), seed=seed).interval
        hits += low <= 0 <= high
    return hits / 200


@pytest.mark.parametrize("count", [8, 40])
def test_the_interval_over_documents_holds_the_truth_nineteen_times_in_twenty(count):
    assert 0.90 <= covered(cluster=True, count=count) <= 0.99


def test_an_interval_over_tokens_would_not():
    assert covered(cluster=False) < 0.75


def test_resampling_is_that_of_documents_whatever_their_ids_and_order():
    values, ids = documents(np.random.default_rng(0))
    mean = mean_by_document(values, ids)
    assert mean == mean_by_document(values, ids) != mean_by_document(values, ids, seed=1)
    assert mean == mean_by_document(values, [f"{i:03d}" for i in ids])
    order = np.random.default_rng(1).permutation(ids.size)
    assert mean_by_document(values[order], ids[order]).interval == pytest.approx(mean.interval)
    sums, sizes = np.bincount(ids, values), np.bincount(ids)
    spread = (
        math.sqrt(((sums - mean.value * sizes) ** 2).sum()) / sizes.sum() * math.sqrt(40 / 39)
    )  # the ratio estimator's, linearised
    assert mean.error == pytest.approx(spread, rel=0.08)
    assert mean.value == pytest.approx(values.mean())


def test_each_document_can_be_the_only_one_that_is_drawn():
    mean = mean_by_document([0, 1, 1, 1], [0, 1, 1, 1])  # twice the first, or twice the second
    assert mean.value == 0.75 and mean.interval == pytest.approx((0, 1))


def test_the_error_of_few_equal_documents_is_that_of_a_mean():
    values = np.array([0.0, 1.0, 5.0])
    error = mean_by_document(np.repeat(values, 4), np.repeat(range(3), 4), resamples=20000).error
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(3), rel=0.03)


def test_many_documents_are_drawn_in_pieces(monkeypatch):
    values, ids = documents(np.random.default_rng(0))
    whole = mean_by_document(values, ids)
    monkeypatch.setattr("lsplit_kit.measure.resample._AT_ONCE", 7 * 40)
    assert mean_by_document(values, ids) == whole


def test_one_document_has_no_interval():
    leak = leak_bits([-1.0, -2.0], [-3.0, -3.0], [7, 7])
    assert math.isnan(leak.error) and math.isnan(leak.interval.low) and "one document" in repr(leak)
    with pytest.raises(UnsupportedOption, match="two"):
        shuffled_wire(leak)


def test_a_paired_difference_forgets_what_is_hard_for_both():
    rng = np.random.default_rng(0)
    hard = rng.gamma(1.0, size=300)[DOCUMENT]
    prior = np.full(6000, -8.0)
    strong, weak = -hard - rng.random(6000), -hard - rng.random(6000) - 0.2
    a, b = (leak_bits(x, prior, DOCUMENT) for x in (strong, weak))
    apart = leak_difference(strong, weak, DOCUMENT)
    assert apart.bits == pytest.approx(a.bits - b.bits) == pytest.approx(0.2 / LN2, abs=3 * apart.error)
    assert apart.error < a.error / 5 and apart.interval.low > 0
    assert leak_difference(strong, strong, DOCUMENT).interval == (0, 0)


def test_groups_add_up_to_the_whole():
    channel, rng = gaussian(0.5), np.random.default_rng(0)
    position = np.where(rng.random(6000) < 0.1, "first", "rest")
    bucket = np.minimum(channel.truth, 3)
    right = channel.truth == (channel.scores + channel.log_prior).argmax(1)
    table = leak_table(channel.posterior(), channel.prior, DOCUMENT, {"position": position, "frequency": bucket}, right)
    assert table.index.tolist()[:3] == [("all", ""), ("position", "first"), ("position", "rest")]
    assert table.index.tolist()[3:] == [("frequency", i) for i in range(4)]
    for by in ("position", "frequency"):
        part = table.loc[by]
        assert part["tokens"].sum() == 6000
        for column in ("bits", "H0", "CE", "accuracy"):
            whole = (part[column] * part["tokens"]).sum() / 6000
            assert whole == pytest.approx(table.loc[("all", ""), column])
    assert table.loc[("all", ""), "accuracy"] == pytest.approx(right.mean())
    alone = leak_bits(channel.posterior()[bucket == 2], channel.prior[bucket == 2], DOCUMENT[bucket == 2])
    assert table.loc[("frequency", 2), ["bits", "low", "high"]].tolist() == [alone.bits, *alone.interval]
    assert table.loc[("frequency", 2), "documents"] == alone.documents


def test_a_matcher_that_names_tokens_has_a_posterior_that_sums_to_one():
    prior = np.array([0.5, 0.3, 0.2])
    calibration = [True] * 8 + [False]  # Laplace: wrong 2 of 11
    given = [
        [np.exp(matched_log_prob([guess == truth], [math.log(prior[truth])], calibration))[0] for truth in range(3)]
        for guess in range(3)
    ]
    assert np.sum(given, 1) == pytest.approx(np.ones(3))
    assert given[1] == pytest.approx([2 / 11 * 0.5, 9 / 11 + 2 / 11 * 0.3, 2 / 11 * 0.2])


def test_exact_matching_reads_all_there_is_and_guessing_wrong_loses_little():
    prior = np.full(6000, -8.0)
    found = leak_bits(matched_log_prob(np.ones(6000, bool), prior), prior, DOCUMENT)
    assert found.share > 0.9999 and found.ce > 0
    lost = leak_bits(matched_log_prob(np.zeros(6000, bool), prior), prior, DOCUMENT)
    assert -0.001 < lost.bits < 0


def test_a_leak_names_its_tokens_and_documents_and_rounds_its_share_down():
    prior = np.full(40, -10 * LN2)
    leak = leak_bits(np.full(40, -0.1001 * LN2), prior, np.arange(40) // 10)
    text = repr(leak)
    assert "98.9 %" in text and "40 tokens of 4 documents" in text and leak._repr_html_().startswith("<table>")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: leak_bits([-1.0], [-1.0, -2.0], [0]), "log_prob 1, prior_log_prob 2"),
        (lambda: leak_bits([-1.0, -1.0], [-1.0, -2.0], [0]), "2 tokens and document ids"),
        (lambda: leak_bits([], [], []), "one number for each token"),
        (lambda: leak_bits([-math.inf], [-1.0], [0]), "mix the prior in"),
        (lambda: leak_bits([0.5], [-1.0], [0]), "none above 0"),
        (lambda: leak_bits([[-1.0]], [[-1.0]], [0]), "one number for each token"),
        (lambda: leak_bits([-1.0], [-1.0], [0], resamples=1), "2 resamples"),
        (lambda: leak_difference([-1.0], [-1.0, -1.0], [0]), "log_prob 1, other 2"),
        (lambda: leak_table([-1.0], [-1.0], [0], {"position": ["a", "b"]}), "'position'"),
        (lambda: leak_table([-1.0], [-1.0], [0], {}, right=[True, True]), "right 2"),
        (lambda: matched_log_prob([0.4], [-1.0]), "True or False"),
        (lambda: matched_log_prob([True], [-1.0], [2]), "True or False"),
        (lambda: monotone({"clean": [-1.0]}, [0]), "at least two levels"),
        (lambda: monotone({"a": [-1.0], "b": [-1.0]}, [0]), "two"),
    ],
)
def test_mistakes_get_a_sentence(call, said):
    with pytest.raises(UnsupportedOption, match=said):
        call()
