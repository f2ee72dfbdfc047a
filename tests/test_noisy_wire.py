"""A noisy wire, a cut and a beginning that are not known: what theory says can be read is read, and doubt is said."""

import math

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.attacks.channel import Channel, alike
from lsplit_kit.attacks.knowledge import Knowledge
from lsplit_kit.attacks.layers import misfit, place_of
from lsplit_kit.attacks.lda import PrototypeLDA
from lsplit_kit.attacks.match import VocabMatch
from lsplit_kit.attacks.noise import ENOUGH, FAR, MOST, Noise
from lsplit_kit.attacks.record import noisy, record, template
from lsplit_kit.attacks.report import report
from lsplit_kit.attacks.search import Search
from lsplit_kit.attacks.study import Place
from lsplit_kit.attacks.tries import Tries
from lsplit_kit.data import topics
from lsplit_kit.errors import NeedsKnowledge, UnsupportedOption
from lsplit_kit.wire.tap import tap

torch.set_num_threads(1)
PROMPTS = ["tick tock tick tock", "count me in", "my hat, your hat"]


@pytest.fixture(scope="module")
def toy():
    return lk.load("toy-llama")


@pytest.fixture(scope="module")
def smollm2():
    return lk.load("smollm2")


@pytest.fixture(scope="module")
def capture(toy):
    return record(lk.split(toy[0], head=3, tail=1), PROMPTS)


def until_wrong(know, depth, h, ids, noise):
    """How many tokens come before the first that is not the likeliest of all, were all tried and the noise known."""
    tries, expected = Tries(know, depth), None
    for t, token in enumerate(ids):
        every = tries.states(torch.arange(len(know.tokenizer))[None])[0]
        prior = 0 if expected is None else expected[0, : len(every)]
        if (prior - (every - h[t]).square().sum(-1) / (2 * noise**2)).argmax() != token:
            return t
        expected = tries.commit(ids[None, t : t + 1])
    return len(ids)


@pytest.mark.parametrize(("sigma", "share"), [(0.1, 1), (0.3, 1), (1.0, 0.7)])
@pytest.mark.parametrize("chat", [True, False])
def test_all_is_read_that_the_best_of_all_guessers_would_read(toy, sigma, share, chat):
    know, depth = Knowledge(*toy), 3
    capture = record(lk.split(toy[0], head=depth, tail=1), PROMPTS, chat=chat)
    loud = noisy(capture, sigma)
    view, truth = loud.view("eavesdrop_up"), capture.sealed.open()
    found = VocabMatch("prior").fit(view, know).reconstruct(view)
    ids = truth["ids"].split(truth["length"].tolist())
    clean, heard = ([c.up.vectors for c in w.conversations()] for w in (capture.view("cloud"), view))
    noise = sigma * float(torch.cat([h[1:] for h in clean]).square().mean().sqrt())
    least = [until_wrong(know, depth, h, i, noise) for h, i in zip(heard, ids, strict=True)]
    assert sum(least) >= share * sum(map(len, ids))  # else this would say nothing
    for count, tokens, i in zip(least, found.tokens, ids, strict=True):
        assert torch.equal(tokens[:count], i[:count])


def test_noise_beyond_measure_hides_the_text(toy, capture):
    loud = noisy(capture, 30.0)
    view = loud.view("eavesdrop_up")
    assert report(VocabMatch("prior").fit(view, Knowledge(*toy)).reconstruct(view), loud).accuracy() < 0.2


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_a_real_prompt_is_read_through_noise_with_candidates_in_bounds(smollm2, sigma):
    capture = noisy(record(lk.split(smollm2[0], head=5, tail=0), ["Why do cats purr?"], longest=6), sigma)
    view = capture.view("eavesdrop_up")
    said = report(VocabMatch("prior").fit(view, Knowledge(*smollm2)).reconstruct(view), capture)
    assert said.accuracy() == 1
    unknown = len(said.tokens.query("kind != 'template'"))
    assert said.cost.candidates <= (FAR + 100) * unknown


def test_noise_is_drawn_anew_for_a_seed_and_as_loud_as_said(capture):
    clean, one, same, other = (
        torch.cat([t[0] for t in c.tensors("up")])
        for c in (capture, noisy(capture, 0.5), noisy(capture, 0.5), noisy(capture, 0.5, seed=1))
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    rest = torch.cat([t[0, 1:] for t in capture.tensors("up")])
    share = float((one - clean).square().mean().sqrt() / rest.square().mean().sqrt())
    assert share == pytest.approx(0.5, rel=0.05)
    for sigma in (-1, math.nan, math.inf):
        with pytest.raises(UnsupportedOption, match="sigma of 0 or more"):
            noisy(capture, sigma)


def test_a_small_noise_behind_a_codec_is_heard_and_none_is_not(toy):
    know = Knowledge(*toy)
    place, before = Place(3, "int4:token"), template(toy[1])[0]
    with torch.inference_mode():
        known = Tries(know, 3).head(before[None], use_cache=False).last_hidden_state[0]
    draw = torch.Generator().manual_seed(0)
    louder = known + 0.3 * known[1:].square().mean().sqrt() * torch.randn(known.shape, generator=draw)
    for vectors, heard in ((known, False), (louder, True)):
        channel = Channel(place, know, 1e-4)
        assert channel.begins(known, place.through(vectors[None])[0])
        assert (channel.fresh is not None) == heard


def test_known_text_is_recognised_behind_any_noise_and_no_other_text_is():
    draw = torch.Generator().manual_seed(0)
    known, other = torch.randn(2, 20, 400, generator=draw) + 2  # with much in common
    for sigma in (0, 0.3, 1, 3):
        noise = sigma * torch.randn(known.shape, generator=draw)
        assert alike(known, known + noise) and not alike(known, other + noise)
    almost = known.clone()
    almost[7] = other[7]  # one word is another
    assert not alike(known, almost) and alike(known[:1], known[:1]) and not alike(known[:1], -known[:1])


def test_noise_is_steady_or_goes_with_the_length_whichever_known_text_shows():
    draw = torch.Generator().manual_seed(0)
    length = torch.rand(20, generator=draw) + 1
    length[0] = 40  # as long as a first position may be
    steady, share = Noise(), Noise()
    steady.hear(torch.full((20,), 0.5), length)
    share.hear(0.1 * length, length)
    h = torch.ones(100)
    assert not steady.relative and steady.at(h) == pytest.approx(0.5)
    assert share.relative and share.at(h) == pytest.approx(1.0) and share.at(0 * h) > 0


def test_a_candidate_is_believed_when_it_is_near_enough_and_well_ahead():
    noise, h, width = Noise(), torch.zeros(100), 100
    noise.hear(torch.full((30,), 10.0), torch.linspace(10, 20, 30))
    tried = torch.eye(3, width) * torch.tensor([[10.0], [10.1], [14.0]])
    ahead, close = torch.tensor([0.0, -9.0, -9.0]), torch.tensor([0.0, -1.0, -9.0])
    usual = {"beliefs": ahead, "count": ENOUGH, "left": 0.01, "before": True}
    assert noise.found(tried, h, **usual)
    for open_ in ({"count": ENOUGH - 1}, {"left": 0.5}, {"before": False}, {"beliefs": close}):
        assert not noise.found(tried, h, **usual | open_)
    assert noise.found(tried, h, close, MOST, left=0.5, before=False)  # however many are tried, that is what there is
    assert not noise.found(tried, h, ahead.flip(0), MOST, left=0.01, before=True)  # the likeliest is too far off


def test_the_prior_decides_between_neighbours_that_noise_cannot_tell_apart():
    channel = Channel(Place(1, "fp32"), None, 1e-4)
    channel.hear(torch.full((30,), 10.0), torch.linspace(10, 20, 30))
    search = Search(torch.zeros(100), torch.tensor([-5.0, -0.1]), torch.zeros(2, 4))
    search.add(torch.tensor([0, 1]), torch.eye(2, 100) * torch.tensor([[10.0], [10.1]]))
    assert search.best(channel, None)[0] == 1  # 2 nats farther off, 4.9 likelier


def test_prototypes_expect_the_noise_that_was_heard(toy):
    view = record(lk.split(toy[0], head=2, tail=1), PROMPTS).view("cloud")
    lda = PrototypeLDA().fit(view, Knowledge(*toy, text=[t.text[:900] for t in topics("fit")][:20]))
    quiet, noise = lda.within(0.5), 0.5
    mu = (lda.spread_.double() @ lda.weights_.double()).T
    spread = lda.spread_.double() + noise**2 * torch.eye(64, dtype=torch.float64)
    h = view.conversations()[0].up.vectors
    weights = torch.linalg.solve(spread, mu.T)
    wanted = (h - lda.shift_).double() @ weights - 0.5 * (mu * weights.T).sum(-1)
    assert torch.allclose(quiet._scores(h).double(), wanted, atol=1e-2, rtol=1e-3)
    assert torch.allclose(lda.within(0.0)._scores(h), lda._scores(h), atol=1e-1, rtol=1e-3)


@pytest.mark.parametrize("first", [True, False])
def test_every_conversation_begins_as_it_does(toy, first):
    model, tok = toy
    before, after = template(tok)
    raw, one, chat = (tok(text, return_tensors="pt", add_special_tokens=False)["input_ids"][0]
                      for text in ("Hello, my PIN is 4821.", "H", "and what is yours?"))  # fmt: skip
    texts = [raw, one[:1], torch.cat([before, chat, after])]
    texts = texts if first else texts[::-1]
    lm = lk.split(model, head=3, tail=1)
    with tap(lm) as wire, torch.inference_mode():
        for ids in texts:
            lm(ids[None])
    view = wire.capture().view("eavesdrop_up")
    found = VocabMatch("prior").fit(view, Knowledge(model, tok)).reconstruct(view)
    assert [t.tolist() for t in found.tokens] == [ids.tolist() for ids in texts]


@pytest.mark.parametrize("codec", ["int4:token", "int4:group=16+hadamard=16"])
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_a_cut_behind_four_bits_is_found(toy, codec, depth):
    lm = lk.split(toy[0], head=depth, tail=0, codec=(codec, "fp32"))
    view = record(lm, PROMPTS).view("eavesdrop_up")
    know = Knowledge(*toy, layer=False)
    assert place_of(view, know, "up").depth == depth == int(misfit(view, know).argmin())


@pytest.mark.parametrize("depth", [5, 15])
def test_a_real_cut_behind_four_bits_is_found(smollm2, depth):
    lm = lk.split(smollm2[0], head=depth, tail=0, codec=("int4:token", "fp32"))
    view = record(lm, ["Hi."]).view("eavesdrop_up")
    away = misfit(view, Knowledge(*smollm2, layer=False))
    assert away.argmin() == depth and away.min() < 0.01


def test_a_cut_that_two_depths_explain_alike_is_not_guessed(toy, capture):
    loud = noisy(capture, 30.0)
    with pytest.raises(NeedsKnowledge, match="Cuts behind . and . layers|No cut of this model"):
        place_of(loud.view("eavesdrop_up"), Knowledge(*toy, layer=False), "up")
