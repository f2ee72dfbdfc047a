"""Everything that generate() takes for a prompt, and that each gives what the library gives for its token ids."""

import pytest
import torch

import lsplit_kit as lk

OPTIONS = dict(max_new_tokens=6, do_sample=False)
TALK = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def toy():
    model, tok = lk.load("toy-llama")
    tok.chat_template = tok.chat_template or "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    split = lk.split(model)
    split.lsplit_tokenizer = lambda: tok
    return model, tok, split


def reply(model, tok, ids, **options):
    out = model.generate(**ids, **{**OPTIONS, **options})
    return tok.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_conversation_is_one_prompt_and_several_are_several(toy):
    model, tok, split = toy
    ids = tok.apply_chat_template(TALK, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = {k: ids[k] for k in ("input_ids", "attention_mask")}
    expected = reply(model, tok, ids)
    assert split.generate(TALK, **OPTIONS) == split.generate(tuple(TALK), **OPTIONS) == expected
    assert split.generate([TALK, TALK], **OPTIONS) == [expected, expected]
    assert split.generate([TALK], **OPTIONS) == [expected]


def test_a_tokenizers_output_needs_no_stars(toy):
    model, tok, split = toy
    batch = tok("Hello", return_tensors="pt")
    ids = {k: batch[k] for k in ("input_ids", "attention_mask")}
    expected = model.generate(**ids, **OPTIONS)
    assert torch.equal(split.generate(batch, **OPTIONS), expected)
    assert torch.equal(split.generate(ids, **OPTIONS), expected)


def test_the_librarys_output_object_comes_back_when_it_is_asked_for(toy):
    model, tok, split = toy
    ids = tok("Hello", return_tensors="pt")["input_ids"]
    more = dict(OPTIONS, return_dict_in_generate=True, output_scores=True)
    whole, ours = model.generate(ids, **more), split.generate("Hello", **more)
    assert type(ours) is type(whole) and torch.equal(ours.sequences, whole.sequences)
    assert all(map(torch.equal, ours.scores, whole.scores)) and len(ours.scores) == 6


def test_stop_strings_need_no_tokenizer(toy):
    model, tok, split = toy
    text = split.generate("Hello", max_new_tokens=40, do_sample=False)
    stop = dict(stop_strings=[next(x for x in text if x.isascii() and x.isalpha())], max_new_tokens=40)
    ids = {"input_ids": tok("Hello", return_tensors="pt")["input_ids"]}
    stopped = split.generate("Hello", do_sample=False, **stop)
    assert stopped == reply(model, tok, ids, tokenizer=tok, **stop) and len(stopped) < len(text)


def test_several_texts_need_a_padding_token(toy):
    _, tok, split = toy
    pad, tok.pad_token = tok.pad_token, None
    try:
        with pytest.raises(lk.LsplitError, match="padding token"):
            split.generate(["one", "two"], **OPTIONS)
        assert len(split.generate(["one"], **OPTIONS)) == 1
    finally:
        tok.pad_token = pad
