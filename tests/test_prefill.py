"""Long prompts in pieces under way at once, and only the positions that somebody will look at come down."""

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import FrameError, UnsupportedOption
from lsplit_kit.split.body import body_of
from lsplit_kit.split.plan import SplitPlan
from lsplit_kit.wire.message import Open, Step

PROMPT = torch.randint(5, 90, (1, 37), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["toy-llama", "toy-gpt2", "toy-gemma3"])
def model(request):
    return lk.load(request.param)[0]


@pytest.fixture(scope="module")
def whole(model):
    return model.generate(PROMPT, max_new_tokens=8, do_sample=False)


def widths(wire, direction):
    rows = wire.ledger().query("direction == @direction and name == 'hidden'")
    return [shape[1] for shape in rows["shape"]]


@pytest.mark.parametrize("body", [None, "loopback"])
@pytest.mark.parametrize("chunk", [1, 10, 36, 37, 500])
def test_pieces_give_the_same_tokens(model, whole, body, chunk):
    lm = lk.split(model, head=1, tail=1, body=body, chunk=chunk)
    with lk.tap(lm) as wire:
        assert torch.equal(lm.generate(PROMPT, max_new_tokens=8, do_sample=False), whole)
    sent = widths(wire, "up")
    assert sum(sent) == 37 + 7 and max(sent) == min(chunk, 37)


def test_pieces_under_way_share_one_round_trip(model):
    lm = lk.split(model, head=1, tail=1, body="loopback", chunk=10, network=lk.Network(rtt_ms=100))
    lm.generate(PROMPT, max_new_tokens=1, do_sample=False)
    assert lm.link.now == pytest.approx(0.200)  # one to open the session, one for four pieces


def test_pieces_over_a_real_host(model, whole):
    with lk.host("toy-llama", head=1, tail=1) as host:
        toy = lk.load("toy-llama")[0]
        lm = lk.split(toy, head=1, tail=1, body=host.address, chunk=8)
        assert torch.equal(
            lm.generate(PROMPT, max_new_tokens=8, do_sample=False),
            toy.generate(PROMPT, max_new_tokens=8, do_sample=False),
        )
        with lk.tap(lm) as wire:
            lm.generate(PROMPT, max_new_tokens=2, do_sample=False)
        assert wire.counters()["stream"] == tuple(wire.totals()["frame"])
        lm.close()


def test_pieces_of_a_padded_batch_and_of_beams(model):
    ids = torch.cat([PROMPT, PROMPT.flip(1)])
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    ask = dict(attention_mask=mask, max_new_tokens=5, do_sample=False, num_beams=3)
    lm = lk.split(model, head=1, tail=1, chunk=10)
    assert torch.equal(lm.generate(ids, **ask), model.generate(ids, **ask))


def test_with_no_layer_behind_only_the_last_position_comes_down(model, whole):
    lm = lk.split(model, head=1, tail=0, body="loopback")
    with lk.tap(lm) as wire:
        assert torch.equal(lm.generate(PROMPT, max_new_tokens=8, do_sample=False), whole)
    assert widths(wire, "up")[0] == 37 and set(widths(wire, "down")) == {1}


def test_the_last_position_is_bit_equal_and_so_are_all_when_asked(model):
    lm = lk.split(model, head=1, tail=0)
    assert torch.equal(lm(PROMPT, logits_to_keep=1).logits, model(PROMPT, logits_to_keep=1).logits)
    assert torch.equal(lm(PROMPT, logits_to_keep=5).logits, model(PROMPT, logits_to_keep=5).logits)
    assert torch.equal(lm(PROMPT).logits, model(PROMPT).logits)
    assert torch.equal(lm(PROMPT, labels=PROMPT, logits_to_keep=0).loss, model(PROMPT, labels=PROMPT).loss)


def test_a_layer_behind_needs_every_position(model):
    lm = lk.split(model, head=1, tail=1)
    with lk.tap(lm) as wire:
        lm.generate(PROMPT, max_new_tokens=2, do_sample=False)
    assert widths(wire, "down") == [37, 1]


def test_a_replay_brings_down_only_what_is_new(model, whole):
    lm = lk.split(model, head=1, tail=1, body="loopback")
    cache = lm(PROMPT, use_cache=True).past_key_values
    lm.link.close_session(1)
    with lk.tap(lm) as wire:
        logits = lm(torch.tensor([[7]]), past_key_values=cache).logits
    assert widths(wire, "up") == [38] and widths(wire, "down") == [1]
    expected = model(torch.cat([PROMPT, torch.tensor([[7]])], dim=1)).logits[:, -1:]
    assert torch.allclose(logits, expected, atol=2e-4)


def test_policy_none_is_the_baseline_and_brings_everything_down(model):
    lm = lk.split(model, head=1, tail=0, cache="none")
    with lk.tap(lm) as wire:
        lm.generate(PROMPT, max_new_tokens=2, do_sample=False)
    assert widths(wire, "down") == [37, 38]


def test_a_failed_piece_leaves_the_model_usable(model, whole):
    lm = lk.split(model, head=1, tail=1, body="loopback", chunk=10)
    body, answered = lm.link.body, []

    def failing(number, step, real=body.step):
        answered.append(step)
        if len(answered) == 3:
            raise FrameError("once")
        return real(number, step)

    body.step = failing
    with pytest.raises(FrameError, match="once"):
        lm.generate(PROMPT, max_new_tokens=8, do_sample=False)
    assert torch.equal(lm.generate(PROMPT, max_new_tokens=8, do_sample=False), whole)


@pytest.mark.parametrize(
    ("given", "said"), [({"chunk": 0}, "above 0"), ({"chunk": 4, "cache": "hidden"}, "cache='kv'")]
)
def test_bad_chunks_are_one_sentence(model, given, said):
    with pytest.raises(UnsupportedOption, match=said):
        lk.split(model, head=1, tail=1, **given)


def test_a_host_refuses_to_keep_more_than_came():
    body = body_of(lk.load("toy-llama")[0], SplitPlan(1, 1))
    session = body.open(Open("kv", "fp32", "fp32"))
    with pytest.raises(FrameError, match="cannot come down"):
        body.step(session, Step(1, 0, 1, 1, bytes(4 * body.info.width), keep=2))
    with pytest.raises(FrameError):
        Step.from_wire((1, 0, 1, 1, b"", b"", b"", b"", -1))
