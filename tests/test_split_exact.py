"""A lossless split equals the whole model: families x plans x policies x links, and every option of generate()."""

import copy
import threading

import pytest
import torch
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

import lsplit_kit as lk
from lsplit_kit.models.toys import toy_names

torch.set_num_threads(1)
GREEDY = dict(max_new_tokens=14, min_new_tokens=14, do_sample=False, output_logits=True, return_dict_in_generate=True)
SAMPLED = {**GREEDY, "do_sample": True, "top_k": 20, "temperature": 1.3}


@pytest.fixture(scope="module")
def llama():
    return lk.load("toy-llama")


@pytest.fixture(scope="module")
def toy_host():
    with lk.host("toy-llama", head=0, tail=0) as host:
        yield host


def encode(tok, *texts):
    tok.padding_side = "left"
    batch = tok(list(texts), return_tensors="pt", padding=True)
    return {k: batch[k] for k in ("input_ids", "attention_mask")}


def gap(a, b):
    """Largest logit difference; infinity where the tokens differ."""
    if not torch.equal(a.sequences, b.sequences):
        return float("inf")
    return max((x - y).abs().max().item() for x, y in zip(a.logits, b.logits, strict=True))


def same(model, split, inputs, policy="kv", limit=None, **options):
    """Generate twice from the same seed and compare: bit-equal for kv, identical tokens and 2e-4 otherwise."""
    results = []
    for m in (model, split):
        torch.manual_seed(3)
        results.append(m.generate(**inputs, **options))
    assert gap(*results) <= (limit if limit is not None else 0 if policy == "kv" else 2e-4)
    return results


@pytest.mark.parametrize("name", toy_names())
def test_every_family_every_policy(name):
    model, tok = lk.load(name)
    inputs = encode(tok, "Hello, split world: twenty-six bytes")
    whole = model.generate(**inputs, **GREEDY)
    for policy in ("kv", "hidden", "none"):
        for head, tail in ((0, 0), (0, 5), (5, 0), (2, 2), (1, 3)):
            ours = lk.split(model, head=head, tail=tail, cache=policy).generate(**inputs, **GREEDY)
            assert gap(whole, ours) <= (0 if policy == "kv" else 2e-4), (policy, head, tail)


@pytest.mark.parametrize("name", toy_names())
def test_every_family_in_a_padded_batch(name):
    model, tok = lk.load(name)
    inputs = encode(tok, "short", "a much longer line of text")
    same(model, lk.split(model, head=2, tail=1, body="loopback"), inputs, **GREEDY)


@pytest.mark.parametrize("head", range(6))
def test_every_plan_of_a_toy(llama, head):
    model, tok = llama
    inputs = encode(tok, "every cut")
    whole = model.generate(**inputs, **GREEDY)
    for tail in range(6 - head):
        assert gap(whole, lk.split(model, head=head, tail=tail).generate(**inputs, **GREEDY)) == 0


OPTIONS = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "beams": dict(GREEDY, num_beams=3),
    "beam groups of samples": dict(SAMPLED, num_beams=2, num_return_sequences=2),
    "several samples": dict(SAMPLED, num_return_sequences=3),
    "guidance": dict(GREEDY, guidance_scale=1.7),
    "static cache": dict(GREEDY, cache_implementation="static"),
    "no cache": dict(GREEDY, use_cache=False),
    "penalty": dict(GREEDY, repetition_penalty=1.3, no_repeat_ngram_size=3),
    "prompt lookup": dict(GREEDY, prompt_lookup_num_tokens=4),
}


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
@pytest.mark.parametrize("link", ["in process", "loopback", "rpyc"])
@pytest.mark.parametrize("option", OPTIONS)
def test_options_policies_links(llama, toy_host, option, link, policy):
    model, tok = llama
    body = {"in process": None, "loopback": "loopback", "rpyc": toy_host.address}[link]
    split = lk.split(model, head=2, tail=1, body=body, cache=policy)
    prompt = "tick tock tick tock tick" if option == "prompt lookup" else "Once upon a time"
    exact = option not in ("static cache", "prompt lookup", "no cache")
    texts = (prompt,) if option == "prompt lookup" else (prompt, "A")
    same(model, split, encode(tok, *texts), policy, None if exact else 2e-4, **OPTIONS[option])
    split.close()


def test_assistant_models_split_or_not(llama):
    model, tok = llama
    helper = lk.load("toy-llama")[0]
    inputs = encode(tok, "draft and verify")
    for assistant in (helper, lk.split(helper, head=1, tail=1)):
        split = lk.split(model, head=2, tail=2)
        same(model, split, inputs, limit=2e-4, assistant_model=assistant, **GREEDY)


def test_several_turns_reuse_the_cache(llama):
    model, tok = llama
    split = lk.split(model, head=2, tail=2, body="loopback")
    outs = []
    for m in (model, split):
        cache, ids = DynamicCache(config=m.config), encode(tok, "first turn")["input_ids"]
        for turn in ("", " second turn", " third"):
            more = tok(turn, return_tensors="pt", add_special_tokens=False)["input_ids"].long()
            ids = torch.cat([ids, more], dim=1) if turn else ids
            out = m.generate(ids, past_key_values=cache, **GREEDY)
            ids = out.sequences
        outs.append(out)
    assert gap(*outs) == 0


def test_copied_cache_is_a_second_session(llama):
    model, tok = llama
    split = lk.split(model, head=2, tail=2)
    ids = encode(tok, "shared prefix")["input_ids"]
    outs = []
    for m in (model, split):
        cache = DynamicCache(config=m.config)
        with torch.no_grad():
            m(ids, past_key_values=cache)
        for end in (" a", " b"):
            more = torch.cat([ids, tok(end, return_tensors="pt", add_special_tokens=False)["input_ids"].long()], dim=1)
            outs.append(m.generate(more, past_key_values=copy.deepcopy(cache), **GREEDY))
    assert gap(outs[0], outs[2]) <= 2e-4 and gap(outs[1], outs[3]) <= 2e-4


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
def test_crop_and_run_again(llama, policy):
    model, tok = llama
    split = lk.split(model, head=2, tail=2, cache=policy, body="loopback")
    ids = encode(tok, "crop me and run me again")["input_ids"]
    outs = []
    for m in (model, split):
        cache = DynamicCache(config=m.config)
        with torch.no_grad():
            m(ids, past_key_values=cache)
            cache.crop(-9)
            outs.append(m(ids[:, -9:], past_key_values=cache).logits)
    assert (outs[0] - outs[1]).abs().max() <= (0 if policy == "kv" else 2e-4)


def test_batch_selection_and_repeat(llama):
    model, tok = llama
    split = lk.split(model, head=2, tail=2, body="loopback")
    inputs = encode(tok, "row one", "row two", "row three is long")
    outs = []
    for m in (model, split):
        cache = DynamicCache(config=m.config)
        with torch.no_grad():
            m(**inputs, past_key_values=cache)
            cache.batch_select_indices(torch.tensor([2, 0]))
            cache.batch_repeat_interleave(2)
            mask = inputs["attention_mask"][[2, 2, 0, 0]]
            ids = torch.full((4, 1), 65)
            mask = torch.cat([mask, torch.ones(4, 1, dtype=torch.long)], dim=1)
            outs.append(m(ids, attention_mask=mask, past_key_values=cache).logits)
    assert torch.equal(*outs)


def test_two_threads_two_sessions(llama, toy_host):
    model, tok = llama
    split = lk.split(model, head=2, tail=2, body=toy_host.address)
    texts = ["thread one speaks", "and here is thread two"]
    want = [model.generate(**encode(tok, t), **GREEDY) for t in texts]
    got = [None, None]

    def work(i):
        got[i] = split.generate(**encode(tok, texts[i]), **GREEDY)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert gap(want[0], got[0]) == 0 and gap(want[1], got[1]) == 0


def test_streamer_stop_string_and_logits_to_keep(llama):
    model, tok = llama
    split = lk.split(model, head=1, tail=1)
    inputs = encode(tok, "stream")
    whole = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    streamer = TextIteratorStreamer(tok, skip_prompt=True)
    split.generate(**inputs, max_new_tokens=12, do_sample=False, streamer=streamer)
    assert "".join(streamer) == tok.decode(whole[0, inputs["input_ids"].shape[1] :])
    stop = tok.decode(whole[0, -4:-2])
    if stop.strip("�"):
        options = dict(max_new_tokens=12, do_sample=False, stop_strings=[stop], tokenizer=tok)
        assert torch.equal(model.generate(**inputs, **options), split.generate(**inputs, **options))
    with torch.no_grad():
        assert split(**inputs, logits_to_keep=2).logits.shape[1] == 2


def test_interrupted_generation_leaves_the_model_usable(llama):
    model, tok = llama
    split = lk.split(model, head=1, tail=1, body="loopback")
    inputs = encode(tok, "stop the cell")

    class Stop(StoppingCriteria):
        def __call__(self, ids, scores, **kwargs):
            if ids.shape[1] > inputs["input_ids"].shape[1] + 3:
                raise KeyboardInterrupt
            return torch.zeros(ids.shape[0], dtype=torch.bool)

    with pytest.raises(KeyboardInterrupt):
        split.generate(**inputs, max_new_tokens=12, stopping_criteria=StoppingCriteriaList([Stop()]))
    same(model, split, inputs, **GREEDY)


def test_positions_given_by_hand_cross_verbatim(llama):
    model, tok = llama
    ids = encode(tok, "positions")["input_ids"]
    at = torch.arange(ids.shape[1])[None] * 2 + 5
    with torch.no_grad():
        a, b = (m(ids, position_ids=at).logits for m in (model, lk.split(model, head=2, tail=2)))
    assert torch.equal(a, b)


def test_the_original_model_is_left_as_it_was(llama):
    model, tok = llama
    before = model.generate(**encode(tok, "same"), **GREEDY)
    split = lk.split(model, head=2, tail=2)
    assert isinstance(split, type(model)) and len(model.model.layers) == 6
    assert gap(before, model.generate(**encode(tok, "same"), **GREEDY)) == 0
    shared = {p.data_ptr() for p in model.parameters()}
    assert all(p.data_ptr() in shared for p in split.parameters())


def test_strings_in_text_out(llama):
    model, _ = llama
    split = lk.split(model, head=1, tail=1)
    one = split.generate("héllo ✓", max_new_tokens=5)
    assert isinstance(one, str) and isinstance(split.generate(["a", "bb"], max_new_tokens=3), list)


def test_half_precision_body_is_lossless_by_default():
    model, tok = lk.load("toy-llama", dtype=torch.bfloat16)
    split = lk.split(model, head=2, tail=2, body="loopback")
    assert split.remote.up.spec == "bf16"
    same(model, split, encode(tok, "half"), **GREEDY)
