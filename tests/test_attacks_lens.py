"""Replies of the real model: read off the uplink, off the downlink with the tail, and without its layers."""

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.attacks import Knowledge, LogitLens, RunTail, TunedLens, VocabMatch, agreement, record, report
from lsplit_kit.data import prompts, topics

torch.set_num_threads(1)
NEW, COUNT = 12, 3


@pytest.fixture(scope="module")
def world():
    """The model, three prompts with their replies on the wire, and what an attacker of an open model knows."""
    model, tok = lk.load("smollm2")
    texts = [prompt.text for prompt in prompts("medical", COUNT)]
    capture = record(lk.split(model, head=2, tail=1), texts, new_tokens=NEW, longest=20)
    return model, capture, Knowledge(model, tok, text=[t.text for t in topics("fit")])


def attacked(attack, world, observer):
    model, capture, knowledge = world
    view = capture.view(observer)
    found = attack.fit(view, knowledge).reconstruct(view)
    return report(found, capture), agreement(found, capture, model)


def test_the_uplink_alone_gives_the_reply_as_well_as_the_prompt(world):
    read, _ = attacked(VocabMatch(proposals="prior"), world, "eavesdrop_up")
    assert read.accuracy("prompt") == read.accuracy("reply") == 1
    assert len(read.tokens.query("kind == 'reply'")) == COUNT * (NEW - 1)  # all but the last, which never goes up


def test_the_downlink_and_the_tail_give_the_whole_reply(world):
    read, said = attacked(RunTail(), world, "eavesdrop_down")
    assert read.accuracy("reply") == 1 and len(read.tokens.query("kind == 'reply'")) == COUNT * NEW
    assert said[:2] == (1, 1) and said.positions == len(read.counted)


def test_a_map_in_place_of_the_tails_layers_nearly_does(world):
    plain, tuned = (attacked(lens, world, "eavesdrop_down")[1] for lens in (LogitLens(), TunedLens(pairs=4000)))
    assert plain.top10 + 0.1 < tuned.top10 > 0.93
    assert plain.best < tuned.best
