"""The made-up wire of the chapter on leakage: what its knobs do."""

import numpy as np
import pytest

from lsplit_kit.attacks.posterior import fit_posterior
from lsplit_kit.course.made_up import heard, log_prob_of, sets_of
from lsplit_kit.measure import leak_bits


def halves(wire):
    return wire.part(wire.document < 40), wire.part(wire.document >= 40)


def leak(wire):
    known, new = halves(wire)
    posterior = fit_posterior(known.scores, known.log_prior, known.truth)
    read = posterior.read(new.scores, new.log_prior, new.truth)
    return leak_bits(read.log_prob, new.log_prior[new.truth], new.document)


def test_noise_changes_the_wire_and_not_the_words():
    quiet, loud = heard(0.3), heard(1.5)
    assert np.array_equal(quiet.truth, loud.truth) and np.array_equal(quiet.document, loud.document)
    assert leak(quiet).bits > leak(loud).bits + 1


def test_a_shuffled_wire_has_the_same_words_and_says_nothing_of_them():
    assert np.array_equal(heard(shuffled=True).truth, heard().truth)
    assert leak(heard(shuffled=True)).bits == pytest.approx(0, abs=1e-3)


def test_as_it_is_the_attack_is_too_sure_and_by_document_it_varies_more():
    wire = heard()
    _, new = halves(wire)
    assert log_prob_of(new.scores + new.log_prior, new.truth).mean() < new.log_prior[new.truth].mean()
    bits = log_prob_of(new.scores / 16 + new.log_prior, new.truth)
    by_token = leak_bits(bits, new.log_prior[new.truth], np.arange(len(bits)))
    assert leak_bits(bits, new.log_prior[new.truth], new.document).error > 1.5 * by_token.error


def test_sets_hold_the_truth_where_the_wires_are_alike():
    known, new = halves(heard(1.0))
    assert sets_of(new, known).coverage > 0.93
    assert sets_of(new._replace(scores=4 * new.scores), halves(heard(0.5))[0]).drifted
