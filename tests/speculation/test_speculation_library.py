"""The library's own speculation over a split model: the same tokens as one at a time, wherever a draft is rejected."""

import pytest
import torch
from sequence import GREEDY, N, assert_same

import lsplit_kit as lk

torch.set_num_threads(1)


def wrong_at(model, place):
    """The model itself as an assistant, whose prediction of position `place` is the next best token."""

    def spoil(module, args, kwargs, out):
        if kwargs["past_key_values"].get_seq_length() == place:
            out.logits[:, -1] = -out.logits[:, -1]

    model.generation_config.num_assistant_tokens = 5
    model.generation_config.num_assistant_tokens_schedule = "constant"
    model.generation_config.assistant_confidence_threshold = 0
    model.register_forward_hook(spoil, with_kwargs=True)
    return model


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
@pytest.mark.parametrize("body", [None, "loopback"])
def test_a_draft_rejected_at_each_position(llama, ids, sequential, policy, body):
    split = lk.split(llama[0], head=2, tail=1, body=body, cache=policy)
    for place in range(ids.shape[1], ids.shape[1] + N - 1):
        helper = wrong_at(lk.load("toy-llama")[0], place)
        with lk.tap(split) as wire:
            assert_same(split.generate(ids, min_new_tokens=N, assistant_model=helper, **GREEDY), sequential)
        trips = sum(c.kind == "step" and c.direction == "up" for c in wire.crossings)
        assert trips < N / 2  # drafts did cross, and most were accepted


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
@pytest.mark.parametrize("body", [None, "loopback"])
@pytest.mark.parametrize("drafts", [1, 3, 10])
def test_prompt_lookup(llama, ids, sequential, policy, body, drafts):
    split = lk.split(llama[0], head=2, tail=1, body=body, cache=policy)
    assert_same(split.generate(ids, min_new_tokens=N, prompt_lookup_num_tokens=drafts, **GREEDY), sequential)


def test_a_real_host(llama, ids, sequential):
    with lk.host("toy-llama", head=2, tail=1) as host, lk.split(llama[0], head=2, tail=1, body=host.address) as split:
        assert_same(split.generate(ids, min_new_tokens=N, prompt_lookup_num_tokens=4, **GREEDY), sequential)
        helper = wrong_at(lk.load("toy-llama")[0], ids.shape[1] + 6)
        assert_same(split.generate(ids, min_new_tokens=N, assistant_model=helper, **GREEDY), sequential)


@pytest.mark.parametrize("length", range(1, N))
def test_a_draft_cut_by_the_length(llama, ids, sequential, length):
    split = lk.split(llama[0], head=2, tail=1)
    helper = wrong_at(lk.load("toy-llama")[0], 0)
    options = {**GREEDY, "max_new_tokens": length}
    assert_same(split.generate(ids, min_new_tokens=length, assistant_model=helper, **options), sequential, length)


@pytest.mark.parametrize("place", range(N))
def test_an_end_token_inside_a_draft(llama, ids, sequential, place):
    new = sequential.sequences[0, ids.shape[1] :].tolist()
    first = new.index(new[place])  # where a model for which this token ends the text would stop
    split = lk.split(llama[0], head=2, tail=1)
    helper = wrong_at(lk.load("toy-llama")[0], 0)
    ours = split.generate(ids, eos_token_id=new[place], assistant_model=helper, **GREEDY)
    assert_same(ours, sequential, first + 1)


def test_one_row_only_as_the_library_says(llama, ids):
    split = lk.split(llama[0], head=2, tail=1)
    with pytest.raises(ValueError, match="batch_size = 1"):
        split.generate(ids.repeat(2, 1), prompt_lookup_num_tokens=3, **GREEDY)
