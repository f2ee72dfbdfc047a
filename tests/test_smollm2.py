"""The real model: ten plans bit-equal, every policy and link token-identical, 64 greedy and 64 sampled tokens."""

import pytest
import torch

import lsplit_kit as lk

torch.set_num_threads(1)
GREEDY = dict(max_new_tokens=64, min_new_tokens=64, do_sample=False, output_logits=True, return_dict_in_generate=True)
SAMPLED = {**GREEDY, "do_sample": True, "temperature": 0.8, "top_p": 0.9}
PLANS = [(0, 0), (0, 2), (2, 0), (1, 1), (2, 2), (4, 4), (8, 8), (15, 14), (29, 0), (0, 29)]


@pytest.fixture(scope="module")
def whole():
    """The unsplit model, a prompt, and what it generates greedily and sampled."""
    model, tok = lk.load("smollm2")
    turn = [{"role": "user", "content": "Name three uses of a paper clip."}]
    ids = tok.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    return model, dict(ids), [run(model, dict(ids), options) for options in (GREEDY, SAMPLED)]


def run(model, ids, options):
    torch.manual_seed(11)
    return model.generate(**ids, **options)


def gap(a, b):
    assert torch.equal(a.sequences, b.sequences)
    return max((x - y).abs().max().item() for x, y in zip(a.logits, b.logits, strict=True))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_ten_plans_are_bit_equal(whole, plan):
    model, ids, wanted = whole
    split = lk.split(model, head=plan[0], tail=plan[1])
    for want, options in zip(wanted, (GREEDY, SAMPLED), strict=True):
        assert gap(want, run(split, ids, options)) == 0


@pytest.mark.parametrize(("policy", "link"), [("hidden", None), ("none", "loopback")])
def test_other_policies_give_the_same_tokens(whole, policy, link):
    model, ids, wanted = whole
    assert gap(wanted[0], run(lk.split(model, body=link, cache=policy), ids, GREEDY)) <= 2e-4


def test_a_real_host_and_a_local_side_without_body(whole):
    _, ids, wanted = whole
    local = lk.load_local("smollm2", head=2, tail=2)
    with lk.host("smollm2") as host:
        assert tuple(host.holds) == (2, 28)
        split = lk.split(local, body=host.address)
        for want, options in zip(wanted, (GREEDY, SAMPLED), strict=True):
            assert gap(want, run(split, ids, options)) == 0
        split.close()
