"""Candidates run side by side give what each alone would; what was tried points to what to try next."""

import copy

import pytest
import torch
from sklearn.base import clone
from transformers import AutoModelForCausalLM

import lsplit_kit as lk
from lsplit_kit.attacks.channel import Channel
from lsplit_kit.attacks.knowledge import Knowledge
from lsplit_kit.attacks.layers import misfit
from lsplit_kit.attacks.match import VocabMatch
from lsplit_kit.attacks.record import record
from lsplit_kit.attacks.report import report
from lsplit_kit.attacks.run_tail import RunTail
from lsplit_kit.attacks.search import BEST, LOCAL, Search, ranked
from lsplit_kit.attacks.study import WINDOW, Place, windows
from lsplit_kit.attacks.tries import AT_ONCE, Tries
from lsplit_kit.attacks.tuned_lens import TunedLens
from lsplit_kit.errors import NeedsKnowledge, UnsupportedOption
from lsplit_kit.models.toys import toy_config

torch.set_num_threads(1)
PROMPTS = ["tick tock tick tock", "count me", "my hat, your hat"]


@pytest.fixture(scope="module")
def llama():
    return lk.load("toy-llama")


@pytest.fixture(scope="module")
def know(llama):
    return Knowledge(*llama)


def alone(model, ids, depth):
    with torch.inference_mode():
        layers = model.config.num_hidden_layers
        out = model.model(ids, output_hidden_states=True)
        assert depth < layers
        return out.hidden_states[depth][:, -1]


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("length", [0, 1, 7])
def test_candidates_do_not_see_each_other(llama, know, depth, length):
    texts = torch.randint(5, 60, (3, length), generator=torch.Generator().manual_seed(1))
    candidates = torch.randint(5, 60, (3, 9), generator=torch.Generator().manual_seed(2))
    tries = Tries(know, depth)
    if length:
        tries.commit(texts)
    for rows in (None, [2, 0]):
        chosen = [0, 1, 2] if rows is None else rows
        found = tries.states(candidates[chosen], rows)
        for i, row in enumerate(chosen):
            each = torch.cat([texts[row].expand(9, -1), candidates[row][:, None]], dim=1)
            assert torch.allclose(found[i], alone(llama[0], each, depth), rtol=1e-4, atol=1e-4)


def test_trying_leaves_the_known_text_as_it_was(llama, know):
    text = torch.tensor([[5, 9, 12, 7]])
    tries = Tries(know, 2)
    tries.commit(text[:, :2])
    tries.states(torch.arange(5, 60)[None])
    tries.states(torch.arange(5, 60)[None], rough=True)
    expected = tries.commit(text[:, 2:])
    with torch.inference_mode():
        wanted = llama[0](text).logits[:, -1].log_softmax(-1)
    assert torch.allclose(expected, wanted, atol=1e-5)


def test_many_candidates_go_in_several_passes(llama, know):
    tries = Tries(know, 1)
    tries.commit(torch.tensor([[5, 9]]))
    many = torch.arange(3, 60).repeat(5)[None, : AT_ONCE + 3]
    assert torch.allclose(tries.states(many)[0, 57:60], tries.states(many[:, 57:60])[0], rtol=1e-4, atol=1e-5)


def test_rows_that_end_are_left_out(llama, know):
    texts = torch.tensor([[5, 9, 8], [6, 7, 11], [12, 13, 14]])
    tries = Tries(know, 2)
    tries.commit(texts)
    tries.keep([0, 2])
    found = tries.states(torch.tensor([[20], [21]]))
    wanted = alone(llama[0], torch.tensor([[5, 9, 8, 20], [12, 13, 14, 21]]), 2)
    assert torch.allclose(found[:, 0], wanted, atol=1e-5)


def test_tried_vectors_point_to_the_embedding_behind_h():
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 8, generator=draw)
    vectors = rows @ torch.randn(8, 32, generator=draw)  # a text behind which vectors are linear in embeddings
    search = Search(vectors[77], torch.zeros(500), rows)
    tried = torch.arange(20)
    search.add(tried, vectors[tried])
    new = search.more(10)
    assert 77 in new.tolist() and not set(new.tolist()) & set(tried.tolist()) and len(set(new.tolist())) == 10
    assert len(search.more(1000)) == 480  # all that are left


def test_what_is_tried_may_be_the_whole_vocabulary(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(30_000, 4, generator=draw)
    vectors = rows @ torch.randn(4, 8, generator=draw)
    search = Search(vectors[-1], torch.zeros(30_000), rows)
    search.add(torch.arange(29_000), vectors[:29_000])  # 3 GB, were all of them in the regression
    solved = []
    solve = torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda a, b: solved.append(len(a)) or solve(a, b))
    assert 29_999 in search.more(10).tolist() and solved == [LOCAL]


def test_beliefs_follow_prototypes_but_are_never_sure():
    expected = torch.tensor([[0.1, 0.2, 0.7]]).log()
    scores = torch.tensor([[0.0, 60.0, 0.0]])
    found = ranked(expected, scores)[0]
    assert found.argmax() == 1 and ranked(expected, None) is expected
    assert float(found[1] - found[2]) < 10  # sixty nats of certainty are not believed


def test_the_one_that_was_found_comes_first():
    search = Search(torch.zeros(4), torch.zeros(6), torch.zeros(6, 4))
    search.add(torch.tensor([4, 2]), torch.tensor([[0.1] * 4, [0.0] * 4]))
    channel = Channel(Place(1, "fp32"), None, 1e-4)
    assert search.best(channel, None).tolist() == [2, 4, *[-1] * (BEST - 2)]
    assert search.best(channel, 0).tolist()[:2] == [4, 2]


@pytest.mark.parametrize("spec", ["int8:token", "int8", "int4:token", "fp16"])
def test_a_channel_knows_whether_a_codec_looks_at_one_vector_at_a_time(know, spec):
    channel = Channel(Place(2, spec), know, 1e-4)
    assert 0 < channel.noise <= channel.worst < 1
    assert channel.rowwise == (spec != "int8")


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int8:token", "int8", "int4:token", "uniform:snr=20+ans"])
@pytest.mark.parametrize("depth", [0, 2])
def test_matching_is_exact_through_codecs(llama, know, codec, depth):
    lm = lk.split(llama[0], head=depth, tail=1, codec=codec)
    capture = record(lm, PROMPTS)
    view = capture.view("eavesdrop_up")
    said = report(VocabMatch("prior").fit(view, know).reconstruct(view), capture)
    assert said.exact() == 1 and said.accuracy() == 1


@pytest.mark.parametrize("text", [None, ["a few words of no great interest, and then some more of them " * 40] * 3])
@pytest.mark.parametrize("template", [True, False])
def test_a_codec_that_is_not_known_and_a_cut_that_is_not_known(llama, template, text):
    lm = lk.split(llama[0], head=2, tail=1, codec="int8:token")
    capture = record(lm, PROMPTS, chat=template)
    view = capture.view("eavesdrop_up")
    know = Knowledge(*llama, text=text, layer=False, codec=False)
    assert misfit(view, know).argmin() == 2
    said = report(VocabMatch().fit(view, know).reconstruct(view), capture)
    assert said.accuracy() == 1


@pytest.mark.parametrize("tail", [0, 1])
def test_a_cut_is_not_guessed_at_where_nothing_fits_or_no_beginning_was_heard(llama, tail):
    capture = record(lk.split(llama[0], head=2, tail=tail), PROMPTS, new_tokens=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        other = AutoModelForCausalLM.from_config(toy_config("toy-llama")).eval()
    know = Knowledge(other, llama[1], layer=False)
    with pytest.raises(NeedsKnowledge, match="No cut of this model gives these vectors"):
        VocabMatch().fit(capture.view("eavesdrop_up"), know)
    know, view = Knowledge(*llama, layer=False), capture.view("eavesdrop_down")
    if tail:  # all positions come down, for the tail's keys and values
        assert RunTail().fit(view, know).place_.depth == len(llama[0].model.layers) - tail
    else:
        with pytest.raises(NeedsKnowledge, match="first vector, and none was heard"):
            RunTail().fit(view, know)


def test_who_has_the_head_alone_matches_as_well_and_runs_nothing_else(llama):
    capture = record(lk.split(llama[0], head=2, tail=1), PROMPTS)
    model = copy.deepcopy(llama[0])
    for layer in model.model.layers[2:]:
        layer.forward = None
    model.lm_head.forward = None
    view, know = capture.view("eavesdrop_up"), Knowledge(model, llama[1], tail="none")
    said = report(VocabMatch().fit(view, know).reconstruct(view), capture)
    assert said.exact() == 1
    with pytest.raises(NeedsKnowledge, match="needs LM head, language model"):
        TunedLens().fit(capture.view("cloud"), know.but(text=["some"]))


def test_a_reading_has_its_own_cost_and_shares_what_was_worked_out(llama):
    capture = record(lk.split(llama[0], head=1, tail=1), PROMPTS, chat=False)
    view, know = capture.view("eavesdrop_up"), Knowledge(*llama)
    narrow = VocabMatch("prior", widths=(8, 64)).fit(view, know)
    first = narrow.reconstruct(view)
    tried = first.cost.candidates
    again = narrow.reconstruct(view)
    assert first.cost.candidates == tried and 0 < again.cost.candidates < tried  # the table of first tokens is there
    assert report(VocabMatch("prior").fit(view, know).reconstruct(view), capture).exact() == 1


def test_an_attack_that_was_fitted_elsewhere_says_so(llama, know):
    here, there = (record(lk.split(llama[0], head=head, tail=1), PROMPTS).view("cloud") for head in (1, 2))
    with pytest.raises(UnsupportedOption, match="fitted to another cut"):
        VocabMatch().fit(here, know).reconstruct(there)
    with pytest.raises(UnsupportedOption, match="proposals is one of 'lda', 'prior', got 'ldaa'"):
        VocabMatch("ldaa").fit(here, know)


def test_the_downlink_is_matched_as_well(llama, know):
    lm = lk.split(llama[0], head=1, tail=1)
    capture = record(lm, PROMPTS)
    view = capture.view("eavesdrop_down")
    attack = clone(VocabMatch("prior", reads="down"))
    said = report(attack.fit(view, know).reconstruct(view), capture)
    assert said.exact() == 1


def test_text_to_fit_with_and_to_calibrate_with_are_apart(know, llama):
    passages = [letter * 70 for letter in "abcdefghijkl"]
    for some in (passages, passages[:2], ["".join(passages)]):
        learn, held = windows(know.but(text=some))
        assert len(learn) and len(held) and learn.shape[1] == held.shape[1] == WINDOW
        if len(some) > 1:
            assert not set(learn.flatten().tolist()) & set(held.flatten().tolist()) - set(llama[1]("")["input_ids"])
    with pytest.raises(NeedsKnowledge, match="too short"):
        windows(know.but(text=["a few words"]))
