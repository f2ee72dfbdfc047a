"""Sizes and times of frames alone say how long prompt and reply are, and where it stopped."""

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.attacks.control import length_report, lengths
from lsplit_kit.attacks.record import record
from lsplit_kit.errors import CaptureError, UnsupportedOption

torch.set_num_threads(1)
PROMPTS = ["tick tock tick tock", "count me", "my hat, your hat and the hat of my neighbour"]


@pytest.fixture(scope="module")
def model():
    return lk.load("toy-llama")[0]


def recorded(model, **options):
    settings = {"min_new_tokens": 4, "new_tokens": 12, **options.pop("say", {})}
    return record(lk.split(model, head=1, tail=1, **options), PROMPTS, **settings)


@pytest.mark.parametrize("cache", ["kv", "hidden"])
@pytest.mark.parametrize("codec", ["fp32", "fp16", "int8:token", "int4"])
def test_lengths_are_exact_where_vectors_have_one_size(model, codec, cache):
    capture = recorded(model, body="loopback", codec=codec, cache=cache)
    table = length_report(lengths(capture.view("eavesdrop_up")), capture)
    assert table.right.all() and table.true_prompt.nunique() == 3


def test_a_real_host_shows_the_same(model):
    with lk.host("toy-llama", head=1, tail=1) as host:
        capture = recorded(model, body=host.address)
    assert length_report(lengths(capture.view("cloud")), capture).right.all()


def test_where_it_stopped(model):
    replies = []
    for stop in (2, 7):
        capture = recorded(model, body="loopback", say={"new_tokens": stop, "min_new_tokens": stop})
        replies.append([e.reply_tokens for e in lengths(capture.view("eavesdrop_up"))])
    assert replies == [[2] * 3, [7] * 3]


def test_entropy_coded_vectors_blur_the_prompt_and_not_the_reply(model):
    capture = recorded(model, body="loopback", codec="uniform:snr=30+ans")
    table = length_report(lengths(capture.view("eavesdrop_up")), capture)
    assert (table.reply_tokens == table.true_reply).all()
    assert ((table.prompt_tokens / table.true_prompt).between(0.5, 2)).all()


def test_beams_count_as_one_longer_text(model):
    capture = recorded(model, body="loopback", say={"num_beams": 2})
    table = length_report(lengths(capture.view("eavesdrop_up")), capture)
    assert (table.prompt_tokens > 1.5 * table.true_prompt).all()
    assert (table.reply_tokens == table.true_reply).all() and len(table) == len(PROMPTS)


def test_drafts_are_taken_for_prompts(model):
    capture = recorded(model, body="loopback", say={"prompt_lookup_num_tokens": 3})
    assert len(lengths(capture.view("eavesdrop_up"))) > len(PROMPTS)


def test_times_come_with_a_clock(model):
    capture = recorded(model, body="loopback", network="4g")
    found = lengths(capture.view("eavesdrop_up"))
    assert all(e.token_seconds > 0.02 and e.first_seconds > 0.02 for e in found)


def test_only_sizes_are_looked_at(model):
    capture = recorded(model, body="loopback")
    blind = lk.Capture(capture.manifest, tuple(c._replace(data=b"", shape=(), codec="", tensor=0, payload=0, step=0,
                       session=0, kind="", name="") for c in capture.crossings), sealed=capture.sealed)  # fmt: skip
    assert [e[:2] for e in lengths(blind.view("eavesdrop_up"))] == [e[:2] for e in lengths(capture.view("cloud"))]


def test_what_cannot_be_read_is_refused(model):
    capture = recorded(model)
    with pytest.raises(UnsupportedOption, match="Nothing was framed"):
        lengths(capture.view("cloud"))
    with pytest.raises(UnsupportedOption, match="Without a cache every step sends the whole text"):
        lengths(recorded(model, body="loopback", cache="none").view("eavesdrop_up"))
    with pytest.raises(UnsupportedOption, match="does not see"):
        lengths(recorded(model, body="loopback").view("eavesdrop_down"))
    with pytest.raises(CaptureError, match="no truth"):
        length_report([], lk.Capture(capture.manifest, capture.crossings))
    with pytest.raises(CaptureError, match="3 texts"):
        length_report([], capture)
