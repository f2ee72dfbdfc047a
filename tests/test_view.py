"""Who sees which crossings, and the conversations in them."""

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.attacks.record import record, template
from lsplit_kit.errors import CaptureError, UnsupportedOption
from lsplit_kit.wire.view import OBSERVERS

torch.set_num_threads(1)
LONG = dict(max_new_tokens=8, min_new_tokens=8, do_sample=False)


@pytest.fixture(scope="module")
def llama():
    return lk.load("toy-llama")


@pytest.fixture(scope="module")
def ids(llama):
    return llama[1]("tick tock tick tock tick", return_tensors="pt")["input_ids"]


def states(model, ids, depth):
    with torch.inference_mode():
        return model(ids, output_hidden_states=True).hidden_states[depth][0]


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
@pytest.mark.parametrize("body", [None, "loopback"])
def test_a_conversation_is_the_head_on_prompt_and_reply(llama, ids, policy, body):
    lm = lk.split(llama[0], head=2, tail=1, cache=policy, body=body)
    with lk.tap(lm) as wire:
        out = lm.generate(ids, **LONG)
    (talk,) = wire.capture().view("cloud").conversations()
    last = out.shape[1] - 1
    wanted = states(llama[0], out[:, :last], 2)
    assert talk.up.positions.tolist() == list(range(last)) == talk.down.positions.tolist()
    assert torch.allclose(talk.up.vectors, wanted, atol=1e-4)
    assert torch.allclose(talk.down.vectors, states(llama[0], out[:, :last], len(llama[0].model.layers) - 1), atol=1e-4)
    assert not len(talk.withdrawn.positions)


@pytest.mark.parametrize("codec", ["fp32", "int8:token"])
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_texts_that_begin_alike_are_equal_vectors_to_who_has_no_weights(llama, codec, depth):
    capture = record(lk.split(llama[0], head=depth, tail=1, codec=codec), ["My hat, your hat", "My hat is your hat"])
    heard = [talk.up.vectors for talk in capture.view("eavesdrop_up").conversations()]
    truth = capture.sealed.open()
    words = truth["ids"].split(truth["length"].tolist())
    shorter = min(map(len, words))
    alike = int((words[0][:shorter] != words[1][:shorter]).int().argmax())
    near = torch.isclose(heard[0][:shorter], heard[1][:shorter], atol=1e-5).all(-1)
    assert 0 < alike < shorter and near[:alike].all() and not near[alike]
    # without a layer equal tokens are equal vectors, and different ones differ: a substitution cipher
    cipher = torch.isclose(heard[0][:, None], heard[0][None], atol=1e-5).all(-1)
    assert torch.equal(cipher, words[0][:, None] == words[0][None]) == (depth == 0)


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
def test_padding_on_the_left_is_no_part_of_a_conversation(llama, ids, policy, tmp_path):
    """Rows of a padded batch are heard as if each had been sent alone, from a saved capture too."""
    lm = lk.split(llama[0], head=2, tail=1, cache=policy)
    short = ids[:, -3:]
    rows = torch.cat([ids, torch.nn.functional.pad(short, (ids.shape[1] - 3, 0))])
    mask = torch.ones_like(rows)
    mask[1, : ids.shape[1] - 3] = 0
    with lk.tap(lm) as wire:
        out = lm.generate(rows, attention_mask=mask, pad_token_id=0, eos_token_id=[], **LONG)
    heard = lk.Capture.load(wire.save(tmp_path / "two.lsplit")).view("cloud").conversations()
    for talk, sent in zip(heard, (out[:1, :-1], out[1:, ids.shape[1] - 3 : -1]), strict=True):
        assert talk.up.positions.tolist() == list(range(sent.shape[1])) == talk.down.positions.tolist()
        assert torch.allclose(talk.up.vectors, states(llama[0], sent, 2), atol=1e-4)


def test_with_no_local_layer_behind_it_the_body_answers_the_last_position_only(llama, ids):
    lm = lk.split(llama[0], head=2, tail=0)
    with lk.tap(lm) as wire:
        out = lm.generate(ids, **LONG)
    (talk,) = wire.capture().view("eavesdrop_down").conversations()
    assert talk.down.positions.tolist() == list(range(ids.shape[1] - 1, out.shape[1] - 1))
    assert not len(talk.up.positions)


def test_words_that_were_taken_back_are_kept_apart(llama, ids):
    lm = lk.split(llama[0], head=2, tail=1)
    other = ids.clone()
    other[:, 4:] = torch.where(ids[:, 4:] == 3, 4, 3)
    from transformers import DynamicCache

    cache = DynamicCache(config=lm.config)
    with lk.tap(lm) as wire, torch.inference_mode():
        lm(ids, past_key_values=cache)
        cache.crop(4 - ids.shape[1])
        lm(other[:, 4:], past_key_values=cache)
    (talk,) = wire.capture().view("eavesdrop_up").conversations()
    assert torch.allclose(talk.up.vectors, states(llama[0], other, 2), atol=1e-5)
    assert talk.withdrawn.positions.tolist() == list(range(4, ids.shape[1]))
    assert torch.allclose(talk.withdrawn.vectors, states(llama[0], ids, 2)[4:], atol=1e-5)


def test_sessions_and_rows_are_conversations_of_their_own(llama, ids):
    lm = lk.split(llama[0], head=1, tail=1)
    with lk.tap(lm) as wire, torch.inference_mode():
        lm(torch.cat([ids, ids.flip(1)]))
        lm(ids[:, :3])
    talks = wire.capture().view("cloud").conversations()
    assert [len(t.up.positions) for t in talks] == [ids.shape[1], ids.shape[1], 3]
    assert [t.row for t in talks] == [0, 1, 0] and len({t.session for t in talks}) == 2


@pytest.mark.parametrize("observer", OBSERVERS)
def test_an_observer_sees_its_directions_and_no_other(llama, ids, observer):
    lm = lk.split(llama[0], head=1, tail=1, network="4g")
    with lk.tap(lm) as wire, torch.inference_mode():
        lm(ids)
    capture = wire.capture()
    view = capture.view(observer)
    assert {c.direction for c in view.crossings} == set(OBSERVERS[observer])
    assert len(view.clock) == len(view.crossings) == len(view.ledger())
    assert set(view.clock) <= set(capture.clock)
    for direction in ("up", "down"):
        if direction in OBSERVERS[observer]:
            assert len(view.tensors(direction)) == 1
        else:
            with pytest.raises(UnsupportedOption, match=f"does not see what goes {direction}"):
                view.tensors(direction)
    assert observer in repr(view)


def test_an_unknown_observer_gets_the_list(llama, ids):
    lm = lk.split(llama[0], head=1, tail=1)
    with lk.tap(lm) as wire, torch.inference_mode():
        lm(ids)
    with pytest.raises(UnsupportedOption, match="eavesdrop_both"):
        wire.capture().view("neighbour")


def test_a_view_and_a_capture_of_attacks_hold_no_truth(llama, tmp_path):
    lm = lk.split(llama[0], head=1, tail=1)
    capture = record(lm, ["tick tock", "tock"])
    assert not any("truth" in name or "seal" in name for name in vars(capture.view("cloud")))
    path = capture.save(tmp_path / "a.lsplit")
    again = lk.Capture.load(path)
    assert again.sealed.open()["ids"].tolist() == capture.sealed.open()["ids"].tolist()
    assert "sealed" in repr(again.sealed) and str(int(again.sealed.open()["ids"][0])) not in repr(again.sealed)
    (tmp_path / "a.lsplit.truth").write_bytes(b"no")
    with pytest.raises(CaptureError, match="not a readable truth"):
        lk.Capture.load(path).sealed.open()


def test_a_record_says_where_prompt_and_reply_are(llama):
    lm = lk.split(llama[0], head=1, tail=1)
    prompt = "tick tock tick"
    length = len(llama[1](prompt, add_special_tokens=False)["input_ids"])  # the template has its own
    truth = record(lm, [prompt], new_tokens=5, min_new_tokens=5).sealed.open()
    before, after = template(llama[1])
    assert truth["first"].tolist() == [len(before)] and truth["stop"].tolist() == [len(before) + length]
    assert truth["reply"].tolist() == [len(before) + length + len(after)]
    assert truth["length"].tolist() == [len(truth["ids"])] == [int(truth["reply"]) + 5]


@pytest.mark.parametrize("bad", ["tick", [], [""], [3]])
def test_a_record_takes_a_list_of_texts(llama, bad):
    with pytest.raises(UnsupportedOption, match="list of prompts"):
        record(lk.split(llama[0], head=1, tail=1), bad)
