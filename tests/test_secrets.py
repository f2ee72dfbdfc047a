"""Beliefs about tokens become the probability of a whole secret: never too large, exact where the list is short."""

import math

import numpy as np
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.attacks import Cost, Reconstruction
from lsplit_kit.data import canaries, names
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.measure.secrets import placed, secret_log_prob

FRONT = 3  # tokens in front of the text


@pytest.fixture(scope="module")
def tok():
    return lk.load("toy-llama")[1]


def ids_of(text, tok):
    return tok(text, add_special_tokens=False)["input_ids"]


def told(secrets, tok, beliefs=None, wrong=()):
    """What an attack says of these secrets: beliefs(ids [T], V) -> log probabilities, or tokens alone."""
    texts = [torch.cat([torch.zeros(FRONT, dtype=torch.long), torch.tensor(ids_of(s.text, tok))]) for s in secrets]
    guesses = [text.clone() for text in texts]
    for number in wrong:
        guesses[number][FRONT + placed(secrets[number], tok)[0]] = 0
    return Reconstruction(
        "made up", "eavesdrop_up", guesses, [g[:, None] for g in guesses], [torch.arange(len(t)) for t in texts],
        beliefs and (lambda n: beliefs(texts[n], len(tok))), Cost(),
    )  # fmt: skip


def flat(ids, vocabulary):
    return torch.full((len(ids), vocabulary), -math.log(vocabulary))


def certain(ids, vocabulary):
    return torch.nn.functional.one_hot(ids, vocabulary).double().log()


@pytest.mark.parametrize(("kind", "bits"), [("pin", math.log2(10_000)), ("name", None), ("code", None)])
def test_beliefs_that_know_nothing_read_nothing(tok, kind, bits):
    secrets = canaries(kind, 5, seed=1)
    said = -secret_log_prob(told(secrets, tok, flat), secrets, tok, FRONT) / math.log(2)
    if kind == "pin":  # every PIN has as many tokens, so all that was drawn is left
        assert np.allclose(said, bits)
    elif kind == "name":  # only names of this length are left
        alike = {len(s.secret) for s in secrets}
        assert (said < 7).all() and (said > 0).all() and len(np.unique(said.round(9))) == len(alike)
    else:  # tokens of the alphabet, of which a byte-level vocabulary has 32 and a space
        assert (said >= 6 * 5).all()


@pytest.mark.parametrize("kind", ["pin", "name", "code"])
def test_certain_beliefs_read_all(tok, kind):
    secrets = canaries(kind, 4, seed=2)
    assert np.allclose(secret_log_prob(told(secrets, tok, certain), secrets, tok, FRONT), 0)


def test_the_secrets_of_a_list_share_one_probability(tok):
    one = canaries("name", 1, seed=3)[0]
    texts = [one.with_secret(name) for name in names() if len(name) == len(one.secret)]
    secrets = [one._replace(text=text, secret=text[one.start : one.end]) for text in texts]
    shape = len(ids_of(one.text, tok)) + FRONT, len(tok)
    table = torch.randn(shape, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    said = secret_log_prob(told(secrets, tok, lambda ids, vocabulary: table), secrets, tok, FRONT)
    assert np.exp(said).sum() == pytest.approx(1) and len(secrets) > 10


def test_a_matcher_is_right_or_wrong(tok):
    secrets = canaries("code", 3, seed=4)
    assert secret_log_prob(told(secrets, tok, wrong=[1]), secrets, tok, FRONT).tolist() == [0, -math.inf, 0]


def test_what_was_not_read_is_refused(tok):
    secrets = canaries("pin", 2, seed=5)
    found = told(secrets, tok)
    with pytest.raises(UnsupportedOption, match="2 canaries for 1"):
        secret_log_prob(told(secrets[:1], tok), secrets, tok, FRONT)
    with pytest.raises(UnsupportedOption, match="does not read all positions"):
        secret_log_prob(found, secrets, tok, before=1000)
