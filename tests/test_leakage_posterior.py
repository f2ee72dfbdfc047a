"""The calibrated posterior against its formula written out in double precision, and what is read off it."""

import math
import weakref

import numpy as np
import pytest
import torch

from lsplit_kit.attacks.candidates import read, set_sizes
from lsplit_kit.attacks.posterior import EPSILONS, TAUS, WEIGHTS, Posterior, fit_posterior
from lsplit_kit.errors import UnsupportedOption

TOKENS, VOCABULARY = 200, 700


@pytest.fixture(scope="module")
def given():
    """Scores [N, V] that are five times too sure, log p [V], the true tokens [N]."""
    rng = np.random.default_rng(0)
    prior = rng.gamma(0.3, size=VOCABULARY) + 1e-4
    prior /= prior.sum()
    truth = rng.choice(VOCABULARY, TOKENS, p=prior)
    scores = 12 * rng.normal(size=(TOKENS, VOCABULARY))
    scores[np.arange(TOKENS), truth] += 28.8
    return scores, np.log(prior), truth


def formula(scores, log_prior, tau, eps, weight):
    """(1 - eps) softmax(tau score + weight log p) + eps p, as probabilities."""
    logits = tau * scores + weight * log_prior
    best = np.exp(logits - logits.max(1, keepdims=True))
    return (1 - eps) * best / best.sum(1, keepdims=True) + eps * np.exp(log_prior)


@pytest.mark.parametrize("numbers", [(0.3, 0.01, 1.0), (0.0, 0.1, 0.25), (1.0, 1e-3, 0.0)])
def test_probabilities_are_those_of_the_formula(given, numbers):
    scores, log_prior, _ = given
    chunks = list(Posterior(*numbers).log_probs(scores, log_prior, rows=64))
    assert [len(chunk) for chunk in chunks] == [64, 64, 64, 8]
    exact = formula(scores, log_prior, *numbers)
    np.testing.assert_allclose(torch.cat(chunks).double().exp().numpy(), exact, rtol=1e-4, atol=1e-12)


def test_arrays_tensors_and_chunks_are_read_alike_and_left_alone(given):
    scores, log_prior, truth = given
    kept, posterior = scores.copy(), Posterior(0.3, 0.01)
    first = posterior.read(scores, log_prior, truth)
    for other in (torch.from_numpy(scores), (scores[i : i + 30] for i in range(0, TOKENS, 30))):
        for a, b in zip(
            first, posterior.read(other, torch.from_numpy(log_prior), torch.from_numpy(truth)), strict=True
        ):
            assert a == pytest.approx(b, rel=1e-5)
    single = torch.from_numpy(scores).float()
    posterior.read(single, log_prior, truth)
    assert (single.numpy() == scores.astype(np.float32)).all() and (scores == kept).all()


@pytest.mark.parametrize(("share", "weight"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
def test_the_fit_is_the_best_of_the_grid(given, share, weight):
    """Of scores that hold a share of the prior already it is the rest that is added."""
    scores, log_prior, truth = given
    scores = scores + 5 * share * log_prior

    def cross_entropy(tau, eps, weight):
        return -np.log(formula(scores, log_prior, tau, eps, weight)[np.arange(TOKENS), truth]).mean()

    best = min(
        ((t, e, w) for t in TAUS for e in EPSILONS for w in WEIGHTS), key=lambda numbers: cross_entropy(*numbers)
    )
    fitted = fit_posterior(scores, log_prior, truth, rows=64)
    assert fitted == Posterior(*best) and (fitted.tau, fitted.weight) == (0.2, weight)
    assert fitted == fit_posterior((scores[i : i + 7] for i in range(0, TOKENS, 7)), log_prior, truth)
    assert -fitted.read(scores, log_prior, truth).log_prob.mean() == pytest.approx(cross_entropy(*best), rel=1e-4)


def test_a_constant_in_a_row_changes_nothing(given):
    scores, log_prior, truth = given
    moved = scores + 1e7 * np.arange(TOKENS)[:, None]
    assert fit_posterior(moved, log_prior, truth) == fit_posterior(scores, log_prior, truth)
    a, b = (Posterior(0.3, 0.01).read(x, log_prior, truth) for x in (scores, moved))
    assert a.log_prob == pytest.approx(b.log_prob, rel=1e-4) and (a.rank == b.rank).all()


def test_a_token_without_a_score_keeps_its_share_of_the_prior(given):
    scores, log_prior, truth = given
    holes = scores.copy()
    holes[np.arange(TOKENS), truth] = -math.inf
    got = Posterior(0.3, 0.01).read(holes, log_prior, truth).log_prob
    assert got == pytest.approx(math.log(0.01) + log_prior[truth], rel=1e-5)
    fitted = fit_posterior(holes, log_prior, truth)
    assert fitted.eps == 0.1 or fitted.tau == 0


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_what_the_prior_rules_out_the_posterior_rules_out(weight):
    log_prior = np.log([0.5, 0.5, 1e-300])
    log_prior[2] = -math.inf
    scores = np.array([[0.0, 1.0, 900.0]])
    got = next(Posterior(1.0, 0.01, weight).log_probs(scores, log_prior))[0].exp()
    assert got.tolist() == pytest.approx([0.99 / (1 + math.e) + 0.005, 0.99 / (1 + 1 / math.e) + 0.005, 0])
    assert got[2] == 0
    fitted = fit_posterior(scores, log_prior, [1], taus=(0.0, 1.0), weights=(weight,))
    assert fitted.tau == 1.0


def test_one_chunk_of_scores_is_held_at_a_time(given):
    scores, log_prior, truth = given
    alive = []

    def chunks():
        for i in range(0, TOKENS, 10):
            assert sum(ref() is not None for ref in alive) <= 1
            chunk = torch.from_numpy(scores[i : i + 10]).clone()
            alive.append(weakref.ref(chunk))
            yield chunk
            del chunk

    fit_posterior(chunks(), log_prior, truth)
    alive.clear()
    Posterior(0.3, 0.01).read(chunks(), log_prior, truth)


def table(*rows):
    return torch.tensor(rows, dtype=torch.float64).log().float()


def test_rank_and_mass_count_what_is_at_least_as_likely():
    got = read([table([0.5, 0.3, 0.2], [0.25, 0.5, 0.25]), table([0.2, 0.4, 0.4])], [1, 0, 2])
    assert got.rank.tolist() == [2, 3, 2] and got.right.tolist() == [False] * 3
    assert got.mass == pytest.approx([0.8, 1.0, 0.8]) and got.log_prob == pytest.approx(np.log([0.3, 0.25, 0.4]))
    assert read([table([0.5, 0.3, 0.2])], [0]).right.tolist() == [True]


def test_sets_hold_the_tokens_whose_mass_is_within_the_threshold():
    rows = [table([0.5, 0.3, 0.15, 0.05], [0.97, 0.01, 0.01, 0.01]), table([0.4, 0.2, 0.2, 0.2])]
    assert set_sizes(rows, 0.6).tolist() == [2, 1, 1] and set_sizes(rows, 0).tolist() == [1, 1, 1]
    assert set_sizes(rows, 0.9).tolist() == [3, 1, 4] and set_sizes(rows, 0.995).tolist() == [4, 4, 4]
    assert set_sizes(rows, 0.9, own=True).tolist() == [2, 0, 1] and set_sizes(rows, 0.96, own=True)[0] == 3
    assert set_sizes(rows, math.inf).tolist() == set_sizes(rows, math.inf, own=True).tolist() == [4, 4, 4]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("tau", "wide"), [(0.01, True), (0.3, False)])
def test_sizes_are_a_count_over_the_vocabulary(given, tau, wide, own):
    scores, log_prior = given[0][:50], given[1]
    posterior = Posterior(tau, 0.01)
    probabilities = torch.cat(list(posterior.log_probs(scores, log_prior))).double().exp().numpy()
    above = probabilities[:, None, :] >= probabilities[:, :, None]
    mass = np.where(above, probabilities[:, None, :], 0).sum(2) - (0 if own else probabilities)
    sizes = set_sizes(posterior.log_probs(scores, log_prior), 0.95, own)
    assert (sizes == (mass <= 0.95).sum(1)).all()
    assert (sizes.max() > 256) == wide  # wider than what is sorted at first, or narrower


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s, p, t: fit_posterior(s, p - 0.01, t), "sum to 1"),
        (lambda s, p, t: fit_posterior(s, np.exp(p), t), "sum to 1"),
        (lambda s, p, t: fit_posterior(s[:, :-1], p, t), r"\[tokens, 700\]"),
        (lambda s, p, t: fit_posterior(s, p, t[:-1]), "199 true tokens"),
        (lambda s, p, t: fit_posterior(s[:-1], p, t), "200 true tokens for 199"),
        (lambda s, p, t: Posterior(1, 0.1).read(s, p, t[:-1]), "199 true tokens"),
        (lambda s, p, t: Posterior(1, 0.1).read([], p, t), "200 true tokens for 0"),
        (lambda s, p, t: fit_posterior(np.where(s > 40, math.nan, s), p, t), "NaN"),
        (lambda s, p, t: fit_posterior(np.full_like(s, -math.inf), p, t), "rules every token out"),
        (lambda s, p, t: fit_posterior(s, p, t + 600), "outside the vocabulary of 700"),
        (lambda s, p, t: Posterior(1, 0.1).read(s, p, t - 600), "outside the vocabulary of 700"),
        (lambda s, p, t: fit_posterior(s[:1], np.array([-math.inf] + [-math.log(699)] * 699), [0]), "smooth it"),
        (lambda s, p, t: Posterior(1, 0.0), "eps lies between"),
        (lambda s, p, t: Posterior(-1, 0.1), "0 or more"),
    ],
)
def test_mistakes_get_a_sentence(given, call, said):
    with pytest.raises(UnsupportedOption, match=said):
        call(*given)
