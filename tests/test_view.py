"""Who sees which crossings, and the conversations in them."""

import json

import pytest
import torch
from safetensors import safe_open

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


def two_padded(ids):
    """Two prompts as one batch, the shorter one padded on the left; their ids, their mask, and the pads."""
    pads = ids.shape[1] - 3
    rows = torch.cat([ids, torch.nn.functional.pad(ids[:, -3:], (pads, 0))])
    mask = torch.ones_like(rows)
    mask[1, :pads] = 0
    return rows, mask, pads


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
    rows, mask, pads = two_padded(ids)
    with lk.tap(lm) as wire:
        out = lm.generate(rows, attention_mask=mask, pad_token_id=0, eos_token_id=[], **LONG)
    heard = lk.Capture.load(wire.save(tmp_path / "two.lsplit")).view("cloud").conversations()
    for talk, sent in zip(heard, (out[:1, :-1], out[1:, pads:-1]), strict=True):
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


BEAMS = dict(num_beams=3, max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0)


def beams(lm, ids, **options):
    """The capture of a beam search, and what each row held when the last step went up."""
    held = []

    def look(now, scores):
        held[:] = now.clone()
        return scores

    with lk.tap(lm) as wire:
        lm.generate(ids, logits_processor=[look], **BEAMS, **options)
    return wire.capture(), held


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
@pytest.mark.parametrize("body", [None, "loopback"])
def test_a_beams_row_holds_what_its_parents_held(llama, ids, policy, body, tmp_path):
    capture, held = beams(lk.split(llama[0], head=2, tail=1, cache=policy, body=body), ids)
    if policy != "none":  # which sends the rows whole, in their new order
        ways = [c.rows for c in capture.crossings if c.rows]
        assert ways and ways[::2] == ways[1::2] and any(rows != (0, 1, 2) for rows in ways)
    saved = lk.Capture.load(capture.save(tmp_path / "beams.lsplit"))
    talks, downs = (saved.view(observer).conversations() for observer in ("cloud", "eavesdrop_down"))
    assert [t.row for t in talks] == [0, 1, 2] and len({tuple(text.tolist()) for text in held}) == 3
    for talk, alone, text in zip(talks, downs, held, strict=True):
        assert talk.up.positions.tolist() == list(range(len(text))) == talk.down.positions.tolist()
        assert torch.allclose(talk.up.vectors, states(llama[0], text[None], 2), atol=1e-4)
        assert torch.equal(talk.down.vectors, alone.down.vectors)
        last = states(llama[0], text[None], len(llama[0].model.layers) - 1)
        assert torch.allclose(talk.down.vectors, last, atol=1e-4)


def test_beams_of_a_padded_batch_are_told_apart(llama, ids):
    rows, mask, pads = two_padded(ids)
    capture, held = beams(lk.split(llama[0], head=2, tail=1), rows, attention_mask=mask)
    talks = capture.view("cloud").conversations()
    assert len(talks) == 6
    for talk, text in zip(talks, [*held[:3], *(text[pads:] for text in held[3:])], strict=True):
        assert talk.up.positions.tolist() == list(range(len(text))) == talk.down.positions.tolist()
        assert torch.allclose(talk.up.vectors, states(llama[0], text[None], 2), atol=1e-4)


@pytest.mark.parametrize("depth", [0, 2])
def test_every_vector_is_a_beams_or_was_given_up_and_is_kept_once(llama, ids, depth):
    capture, _ = beams(lk.split(llama[0], head=depth, tail=1), ids)
    talks = capture.view("eavesdrop_up").conversations()
    sent, at = set(), 0
    for tensor in capture.tensors("up"):
        sent |= {(at + p, row[p].numpy().tobytes()) for row in tensor for p in range(tensor.shape[1])}
        at += tensor.shape[1]
    held, gone = (
        [(int(p), v.numpy().tobytes()) for heard in some for p, v in zip(heard.positions, heard.vectors, strict=True)]
        for some in ([t.up for t in talks], [t.withdrawn for t in talks])
    )
    assert gone and len(set(gone)) == len(gone) and not set(gone) & set(held) and {*gone, *held} == sent
    assert all(p >= ids.shape[1] for p, _ in gone)  # nobody takes the prompt back


def test_a_tap_that_listens_from_the_middle_on_follows_beams_too(llama, ids):
    lm = lk.split(llama[0], head=2, tail=1)
    from transformers import DynamicCache

    cache = DynamicCache(config=lm.config)
    with torch.inference_mode():
        lm(ids.expand(3, -1), past_key_values=cache)
        cache.reorder_cache(torch.tensor([2, 0, 0]))
        with lk.tap(lm) as wire:
            lm(torch.tensor([[5], [6], [7]]), past_key_values=cache)
            cache.reorder_cache(torch.tensor([1, 1, 2]))
            lm(torch.tensor([[8], [9], [10]]), past_key_values=cache)
    talks = wire.capture().view("eavesdrop_up").conversations()
    for talk, new in zip(talks, ([6, 8], [6, 9], [7, 10]), strict=True):
        whole = states(llama[0], torch.cat([ids, torch.tensor([new])], dim=1), 2)
        assert talk.up.positions.tolist() == [ids.shape[1], ids.shape[1] + 1]
        assert torch.allclose(talk.up.vectors, whole[-2:], atol=1e-4)


def test_a_capture_without_beams_is_kept_as_before(llama, ids, tmp_path):
    lm = lk.split(llama[0], head=1, tail=1)
    with lk.tap(lm) as wire, torch.inference_mode():
        lm(ids)
    path = wire.save(tmp_path / "plain.lsplit")
    with safe_open(path, "pt") as file:
        assert {len(row) for row in json.loads(file.metadata()["lsplit"])["crossings"]} == {12}


def test_a_record_of_beams_has_a_text_for_every_row(llama):
    lm = lk.split(llama[0], head=1, tail=1)
    prompts, options = ["tick tock tick", "my hat"], dict(new_tokens=6, min_new_tokens=6)
    capture = record(lm, prompts, num_beams=3, **options)
    truth, talks = capture.sealed.open(), capture.view("cloud").conversations()
    texts = truth["ids"].split(truth["length"].tolist())
    assert truth["prompt"].tolist() == [0, 0, 0, 1, 1, 1] and len(texts) == len(talks)
    for talk, text in zip(talks, texts, strict=True):
        sent = text[: len(talk.up.positions)]
        assert len(text) - len(sent) in (0, 1)  # the last token of a text that was returned never goes up
        assert torch.allclose(talk.up.vectors, states(llama[0], sent[None], 1), atol=1e-4)
    alone = llama[0].generate(
        texts[0][None, : truth["reply"][0]], **{**BEAMS, "max_new_tokens": 6, "min_new_tokens": 6}
    )
    assert any(torch.equal(alone[0], text) for text in texts[:3])
    drawn = record(lm, prompts[:1], do_sample=True, num_return_sequences=2, **options).sealed.open()
    assert drawn["length"].tolist() == [int(drawn["reply"][0]) + 6] * 2
