"""What is no option, view or knowledge of an attack is refused in one sentence, before anything is computed."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.base import clone

import lsplit_kit as lk
from lsplit_kit import attacks as T
from lsplit_kit.attacks import pictures as P
from lsplit_kit.attacks.attack import Attack
from lsplit_kit.attacks.options import OPTIONS
from lsplit_kit.errors import NeedsKnowledge, UnsupportedOption

torch.set_num_threads(1)
ALL = [a for room in (T, P) for a in vars(room).values() if isinstance(a, type) and issubclass(a, Attack)]
BASES = (Attack, P.PictureAttack)


@cache
def text():
    """A view of a text's wire, and what an attacker of an open model knows."""
    model, tok = lk.load("toy-llama")
    return T.record(lk.split(model, head=2, tail=1), ["tick tock"]).view("cloud"), T.Knowledge(model, tok, text=["a b"])


@cache
def picture():
    """A view of a picture's wire, and what an attacker of a public pipeline knows."""
    pipe = lk.load("emoji-ldm")
    view = P.record_picture(lk.split(pipe), ["a dog"], steps=2).view("cloud")
    return view, P.picture_knowledge(pipe, text=["a cat"])


BAD = [
    (T.VocabMatch(widths=()), r"VocabMatch: widths takes one or more whole numbers from 1, .*, got \(\)"),
    (T.VocabMatch(widths=(64, 8)), "widths takes .* each larger than the one before"),
    (T.VocabMatch(widths=8), "widths takes one or more"),
    (T.VocabMatch(reads="sideways"), "reads takes 'up' or 'down', got 'sideways'"),
    (T.VocabMatch(tolerance=0), "tolerance takes a number above 0, got 0"),
    (T.VocabMatch(proposals="x"), "proposals is one of 'lda', 'prior', got 'x'"),
    (T.SoftEmbedding(steps=0), "SoftEmbedding: steps takes a whole number from 1, got 0"),
    (T.SoftEmbedding(steps="9"), "steps takes a whole number from 1, got '9'"),
    (T.SoftEmbedding(rate=float("nan")), "rate takes a number above 0, got nan"),
    (T.Ridge(penalty=-1), "Ridge: penalty takes a number from 0, got -1"),
    (T.Ridge(pairs=0), "pairs takes a whole number from 1, got 0"),
    (T.PrototypeLDA(contexts=1.5), "contexts takes a whole number from 0, got 1.5"),
    (T.SequenceInverter(hidden=True), "hidden takes a whole number from 1, got True"),
    (T.PriorOnly(ahead="down"), "ahead takes True or False, got 'down'"),
    (P.CleanEstimate(step=99), "CleanEstimate: there are 2 calls, .* there is no 99"),
    (P.CleanEstimate(step=-3), "there is no -3"),
    (P.CleanEstimate(step=0.5), "step takes a whole number, got 0.5"),
    (P.CleanEstimate(guidance="strong"), "guidance takes a number, or None, got 'strong'"),
    (P.FittedTelescope(pictures=0), "FittedTelescope: pictures takes a whole number from 1, got 0"),
    (P.HiddenInversion(calls=0), "calls takes a whole number from 1, got 0"),
    (P.Telescope(mean=[0.0]), r"mean takes a latent \[C, h, w\], or None, got \[0.0\]"),
    (P.PromptMatch(widths=()), "PromptMatch: widths takes one or more"),
]  # fmt: skip


@pytest.mark.parametrize(("attack", "words"), BAD, ids=lambda value: str(value).partition(":")[0][:60])
def test_an_option_that_is_none_is_refused(attack, words):
    assert clone(attack).get_params() == attack.get_params()  # only fit looks at them
    view, knowledge = picture() if type(attack).__name__ in P.__all__ else text()
    with pytest.raises(UnsupportedOption, match=words):
        attack.fit(view, knowledge).reconstruct(view)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(model="smollm2"), r"model takes the attacker's own copy, as lk.load\(...\)\[0\] gives it, .* got str"),
        (dict(model=("model", "tokenizer")), "model takes the attacker's own copy, .* got tuple"),
        (dict(tokenizer="smollm2"), r"tokenizer takes the attacker's own copy, as lk.load\(...\)\[1\] gives it"),
        (dict(text="one string"), "text takes a list of passages, got one string"),
        (dict(text=[1, 2]), "text takes a list of passages, each a text, got one that is 1"),
        (dict(text=3), "text takes a list of passages, or None, got int"),
        (dict(codec="int8"), r"codec takes True \(known\) or False, got 'int8'"),
        (dict(layer=2), "layer takes True"),
        (dict(head="mine"), "the weights are one of 'public'"),
        (dict(queries=5), "queries takes a function"),
        (dict(budget=0), "budget takes a whole number of tokens from 1, or None, got 0"),
    ],
)
def test_what_nobody_can_know_is_refused(given, words):
    with pytest.raises(UnsupportedOption, match=words):
        T.Knowledge(**given)
    with pytest.raises(UnsupportedOption, match=words):
        text()[1].but(**given)


def test_only_a_view_is_attacked_and_with_a_knowledge():
    view, knowledge, attack = text()[0], text()[1].but(text=None), T.VocabMatch("prior")
    with pytest.raises(UnsupportedOption, match=r"takes a view and a Knowledge\(...\), got NoneType"):
        attack.fit(view, None)
    capture = T.record(lk.split(knowledge.model, head=2, tail=1), ["tick"])
    for odd, said in ((capture, "Capture"), (None, "NoneType")):
        with pytest.raises(UnsupportedOption, match=rf"VocabMatch reads a view, capture.view\('cloud'\) .* got {said}"):
            attack.fit(odd, knowledge)
        with pytest.raises(UnsupportedOption, match=f"reads a view, .* got {said}"):
            clone(attack).fit(view, knowledge).reconstruct(odd)
    with pytest.raises(NeedsKnowledge, match="was not fitted"):
        clone(attack).reconstruct(view)


@pytest.mark.parametrize("attack", [a for a in ALL if a not in BASES], ids=lambda attack: attack.__name__)
def test_every_option_of_every_attack_is_looked_at_and_its_default_is_right(attack):
    options = attack().get_params()
    assert set(options) - {"proposals"} <= set(OPTIONS)  # which names itself, in VocabMatch
    assert all(OPTIONS[name].fits(value) for name, value in options.items() if name in OPTIONS)


def test_numpys_numbers_are_numbers():
    assert OPTIONS["steps"].fits(np.int64(3)) and OPTIONS["rate"].fits(np.float32(0.5))
