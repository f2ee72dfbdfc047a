"""A host that a learner wrote, under the kit's own local side: rollback, replay, and what it may not return."""

import runpy
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

import lsplit_kit as lk
from lsplit_kit.course.own_host import own_host

SOLUTIONS = Path(__file__).resolve().parent.parent / "tutorials" / "solutions" / "02_the_cache.py"
IDS = torch.arange(5, 14)[None]
OPTIONS = dict(max_new_tokens=20, min_new_tokens=20, do_sample=False)


@pytest.fixture(scope="module")
def toy():
    return lk.load("toy-llama")[0]


@pytest.fixture(scope="module")
def Host():  # noqa: N802
    return runpy.run_path(str(SOLUTIONS))["Host"]


@pytest.mark.parametrize(("head", "tail"), [(2, 2), (0, 0), (4, 1)])
def test_guesses_are_taken_back_and_the_tokens_are_the_unsplit_models(toy, Host, head, tail):
    starts = []

    class Noted(Host):
        def step(self, start, new):
            have = 0 if self.history is None else self.history.shape[1]
            starts.append((start, have))
            return super().step(start, new)

    lm = own_host(toy, Noted, head, tail)
    assert torch.equal(lm.generate(IDS, **OPTIONS, prompt_lookup_num_tokens=3), toy.generate(IDS, **OPTIONS))
    assert any(start < have for start, have in starts) and not any(start > have for start, have in starts)


def test_a_host_that_forgot_gets_everything_again(toy, Host):
    lm, cache = own_host(toy, Host), DynamicCache()
    begun = lm.generate(IDS, past_key_values=cache, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    (host,) = lm.link.hosts.values()
    host.history = None
    with lk.tap(lm) as wire:
        done = lm.generate(begun, past_key_values=cache, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert torch.equal(done, toy.generate(IDS, max_new_tokens=6, min_new_tokens=6, do_sample=False))
    first = wire.ledger().iloc[0]
    assert (first["kind"], first["start"], first["shape"]) == ("replay", 0, (1, 12, 64))


@pytest.mark.parametrize("answer", [lambda body, new: body(new)[0], lambda body, new: None])
def test_another_shape_is_a_sentence(toy, Host, answer):
    bad = type("Bad", (Host,), {"step": lambda self, start, new: answer(self.body, new)})
    with pytest.raises(lk.LsplitError, match=r"step must return outputs of the shape \(1, 9, 64\)"):
        own_host(toy, bad).generate(IDS, **OPTIONS)


def test_padding_and_several_rows_are_refused(toy, Host):
    with pytest.raises(lk.LsplitError, match="one row, without padding"):
        own_host(toy, Host).generate(IDS.repeat(2, 1), **OPTIONS)
    mask = torch.ones_like(IDS)
    mask[0, 0] = 0
    with pytest.raises(lk.LsplitError, match="one row, without padding"):
        own_host(toy, Host).generate(IDS, attention_mask=mask, **OPTIONS)
