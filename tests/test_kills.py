"""kill -9 in the middle: a host process ends at five random steps; reply and picture are those of an undisturbed run.

`benchmarks/faults.py` does the same a hundred times.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import lsplit_kit as lk

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from strikes import Nursery, Struck, strikes

torch.set_num_threads(1)
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks hosts that end with their parent"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*going on at:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Waiting up to:UserWarning"),
]
PROMPT, TOKENS, STEPS, KILLS = "tick tock tick tock tick", 24, 12, 5
DELTA = ("fp32", "uniform:step=0.1+delta+ans")
WAYS = {
    "per_step": dict(mode="per_step"),
    "lockstep": dict(mode="lockstep"),
    "blocks": dict(mode="per_step", at="blocks", head=1, tail=1),
}


@pytest.fixture(scope="module")
def nursery():
    with Nursery("toy-llama", 2, 2) as running:
        yield running


@pytest.fixture(scope="module")
def pictures():
    with Nursery("toy-sd") as running:
        yield running


def struck(split, nursery, hosts, last, seed):
    """Put strikes at KILLS random answers from the first to number `last` into a split model's link."""
    split.remote.link = link = Struck(split.remote.link, nursery, hosts, strikes(KILLS, last, seed), seed)
    return link


def born(nursery, how):
    """(hosts, body=) of a host that is started anew, or of two of which one is killed while the other lives."""
    hosts = [nursery.start() for _ in range(1 if how == "restart" else 2)]
    return hosts, hosts[0].address if how == "restart" else [host.address for host in hosts]


def end(nursery, link):
    link.close()
    for host in link.hosts.values():
        nursery.kill(host)


@cache
def unsplit(name="toy-llama"):
    return lk.load(name)


def reply(model, speculate="", tokens=TOKENS):
    ids = unsplit()[1](PROMPT, return_tensors="pt")["input_ids"]
    options = dict(max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    if speculate == "lk.speculate":
        return lk.speculate(model, draft="lookup").generate(ids, **options)
    return model.generate(ids, **options, **({"prompt_lookup_num_tokens": 4} if speculate else {}))


@pytest.mark.parametrize("speculate", ["", "prompt lookup", "lk.speculate"])
@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
@pytest.mark.parametrize("how", ["restart", "fail over"])
def test_a_reply_is_the_same_though_hosts_are_killed(nursery, how, policy, speculate):
    hosts, body = born(nursery, how)
    split = lk.split(unsplit()[0], head=2, tail=2, body=body, cache=policy, timeout=20)
    # drafts take fewer steps than tokens, and how many depends on what was seen of their cost
    link = struck(split, nursery, hosts, 10 if speculate else TOKENS, seed=len(how + policy + speculate))
    with lk.tap(split) as wire:
        got = reply(split, speculate)
    end(nursery, link)
    assert torch.equal(got, reply(unsplit()[0]))
    assert len(link.hits) == KILLS and len(wire.hosts) == len(hosts)
    assert {how for _, how in link.hits} == {"between steps", "in a step"}
    assert wire.counters()["stream"] == tuple(wire.totals()["frame"])


@pytest.mark.parametrize("codec", [None, DELTA], ids=["fp32", "delta"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("how", ["restart", "fail over"])
def test_a_picture_is_the_same_to_the_bit_though_hosts_are_killed(pictures, how, way, codec):
    hosts, body = born(pictures, how)
    split = lk.split(unsplit("toy-sd"), body=body, codec=codec, timeout=20, **WAYS[way])
    link = struck(split, pictures, hosts, STEPS, seed=4 + len(how + way) + bool(codec))
    with lk.tap(split) as wire:
        got = draw(split)
    end(pictures, link)
    undisturbed = unsplit("toy-sd") if codec is None else lk.split(unsplit("toy-sd"), codec=codec, **WAYS[way])
    assert torch.equal(got, draw(undisturbed))
    assert len(link.hits) == KILLS and len(wire.hosts) == len(hosts)
    assert {how for _, how in link.hits} & {"in a step", "with steps under way"}
    assert wire.counters()["stream"] == tuple(wire.totals()["frame"])
    if codec is not None:  # who reads the wire, or the capture, follows the prediction over all of it
        capture = wire.capture()
        heard = capture.tensors("down")
        assert [t.tolist() for t in heard] == [t.tolist() for _, t in _decoded(capture.view("eavesdrop_down"))]


def _decoded(view):
    from lsplit_kit.wire.view import decoded

    return list(decoded(view.crossings))


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    call = dict(prompt="a red apple", num_inference_steps=STEPS, output_type="latent")
    return torch.as_tensor(pipe(**call, generator=torch.Generator().manual_seed(1234567)).images)


@pytest.fixture(scope="module")
def real():
    with Nursery("smollm2", 2, 2) as running:
        yield running


@pytest.mark.parametrize(
    ("how", "policy", "drafts"),
    [
        ("fail over", "kv", {}),
        ("fail over", "none", {}),
        ("restart", "kv", {}),
        ("restart", "hidden", {}),
        ("restart", "kv", {"prompt_lookup_num_tokens": 3}),
    ],
    ids=str,
)
def test_the_real_model_says_the_same_though_hosts_are_killed(real, how, policy, drafts):
    model, tok = unsplit("smollm2")
    ids = tok("The capital of France is", return_tensors="pt")["input_ids"]
    options = dict(max_new_tokens=16, min_new_tokens=16, do_sample=False)
    hosts, body = born(real, how)
    split = lk.split(model, head=2, tail=2, body=body, cache=policy)
    link = struck(split, real, hosts, 10 if drafts else 16, seed=7)
    got = split.generate(ids, **options, **drafts)
    end(real, link)
    assert torch.equal(got, model.generate(ids, **options))
    assert len(link.hits) == KILLS and {how for _, how in link.hits} == {"between steps", "in a step"}
