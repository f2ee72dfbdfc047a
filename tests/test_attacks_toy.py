"""Attacks on text where theory is exact: a toy with random weights, whole and from the wrong seed."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from sklearn.base import clone
from transformers import AutoModelForCausalLM

import lsplit_kit as lk
from lsplit_kit.attacks import (
    Knowledge,
    LogitLens,
    NearestEmbedding,
    PriorOnly,
    PrototypeLDA,
    Ridge,
    RunTail,
    SequenceInverter,
    SoftEmbedding,
    TunedLens,
    VocabMatch,
    agreement,
    record,
    report,
)
from lsplit_kit.attacks.ahead import said, tail_side
from lsplit_kit.attacks.prototypes import NEVER as UNSEEN
from lsplit_kit.attacks.threats import oracle
from lsplit_kit.data import topics
from lsplit_kit.errors import NeedsKnowledge, UnsupportedOption
from lsplit_kit.models.toys import toy_config

torch.set_num_threads(1)
PROMPTS = ["My PIN is 4711.", "Where does it hurt?", "Owe 120 euros"]
LAYERS, NEW, NEVER = 6, 5, 10_000  # no token ends a reply early
ATTACKS = [
    PriorOnly(),
    NearestEmbedding(),
    Ridge(penalty=0.01),
    PrototypeLDA(weight=3.0),
    SequenceInverter(hidden=8, epochs=1),
    VocabMatch(proposals="prior"),
    SoftEmbedding(steps=9),
    LogitLens(),
    TunedLens(pairs=99),
    RunTail(),
]
LACKS = {
    "tokenizer": {"tokenizer": None}, "text": {"text": None}, "layer": {"layer": False},
    "head weights": {"head": "none"}, "head weights or queries": {"head": "none"}, "embeddings": {"head": "none"},
    "LM head": {"tail": "none"}, "tail weights": {"tail": "none"}, "language model": {"head": "none"},
}  # fmt: skip
SMALL = SequenceInverter(hidden=32)
PROBES = [pytest.param(a, id=type(a).__name__) for a in (Ridge(), PrototypeLDA(), SMALL)]
NAMED = [pytest.param(attack, id=type(attack).__name__) for attack in ATTACKS]
NEEDS = [pytest.param(a, what, id=f"{type(a).__name__}-{what}") for a in ATTACKS for what in a.requires]


@pytest.fixture(scope="module")
def toy():
    """The toy, and what an attacker of an open model knows of it."""
    model, tok = lk.load("toy-llama")
    return model, Knowledge(model, tok, text=[t.text[:900] for t in topics("fit")][:20])


@pytest.fixture(scope="module")
def stranger(toy):
    """The same knowledge, but for the weights: another seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return toy[1].but(model=AutoModelForCausalLM.from_config(toy_config("toy-llama")).eval())


@pytest.fixture(scope="module")
def captures(toy):
    """Captures by the depth of the head, the tail as long as it may be, made once."""
    made = {}

    def of(depth):
        if depth not in made:
            tail = min(2, LAYERS - depth - 1)
            made[depth] = record(lk.split(toy[0], head=depth, tail=tail), PROMPTS, new_tokens=NEW, eos_token_id=NEVER)
        return made[depth]

    return of


def attacked(attack, capture, knowledge, observer="cloud"):
    """(what the attack found, its report)."""
    view = capture.view(observer)
    found = clone(attack).fit(view, knowledge).reconstruct(view)
    return found, report(found, capture)


@pytest.mark.parametrize("depth", range(LAYERS))
def test_matching_reads_prompt_and_reply_at_every_depth(toy, captures, depth):
    _, read = attacked(VocabMatch(), captures(depth), toy[1], "eavesdrop_up")
    assert read.accuracy() == read.accuracy("reply") == read.exact() == 1
    # the last token that is drawn is nobody's input
    assert len(read.tokens.query("kind == 'reply'")) == len(PROMPTS) * (NEW - 1)


def test_matching_reads_every_beam(toy, tmp_path):
    lm = lk.split(toy[0], head=2, tail=2)
    capture = record(lm, PROMPTS, new_tokens=NEW, eos_token_id=NEVER, num_beams=3)
    capture = lk.Capture.load(capture.save(tmp_path / "beams.lsplit"))
    found, read = attacked(VocabMatch(), capture, toy[1], "eavesdrop_up")
    assert read.accuracy() == read.accuracy("reply") == read.exact() == 1
    assert read.tokens.conversation.nunique() == 3 * len(PROMPTS)
    for first in range(0, len(found.tokens), 3):  # the prompt is the same, the replies are not
        assert len({tuple(text.tolist()) for text in found.tokens[first : first + 3]}) == 3
    down = attacked(RunTail(), capture, toy[1])[1]
    assert down.tokens.conversation.nunique() == 3 * len(PROMPTS) and down.accuracy("reply") > 0.2


def test_matching_reads_the_beams_of_a_padded_batch(toy):
    lm, tok, held = lk.split(toy[0], head=2, tail=2), toy[1].tokenizer, []
    batch = tok(PROMPTS, return_tensors="pt", padding=True, padding_side="left")

    def look(now, scores):
        held[:] = now.clone()
        return scores

    with lk.tap(lm) as wire:
        lm.generate(**batch, num_beams=3, max_new_tokens=NEW, eos_token_id=NEVER, do_sample=False, pad_token_id=0,
                    logits_processor=[look])  # fmt: skip
    view = wire.capture().view("eavesdrop_up")
    found = VocabMatch("prior").fit(view, toy[1].but(template=False)).reconstruct(view)
    pads = (1 - batch["attention_mask"]).sum(1).repeat_interleave(3).tolist()
    assert len(set(pads)) > 1 and len(held) == 3 * len(PROMPTS)
    assert [text.tolist() for text in found.tokens] == [text[n:].tolist() for text, n in zip(held, pads, strict=True)]


def test_without_a_layer_the_nearest_embedding_is_the_token(toy, captures):
    _, read = attacked(NearestEmbedding(), captures(0), toy[1])
    assert read.accuracy() == 1


@pytest.mark.parametrize("attack", PROBES)
def test_probes_know_more_than_the_prior_and_how_sure_they_are(toy, captures, attack):
    found, read = attacked(attack, captures(1), toy[1])
    nothing = attacked(PriorOnly(), captures(1), toy[1])[1]
    assert read.accuracy("prompt") > nothing.accuracy("prompt") + 0.2
    bits = [r.tokens.query("kind == 'prompt'").log_prob.mean() for r in (read, nothing)]
    assert bits[0] > bits[1] + 0.3
    sums = found.log_probs(0).exp().sum(-1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


def asking(toy, depth, budget):
    """What who has no weights knows, and how many tokens went through the head since."""
    sent, ask = [], oracle(toy[0], depth)

    def counted(ids):
        sent.append(ids.numel())
        return ask(ids)

    return toy[1].but(model=None, head="none", tail="none", queries=counted, budget=budget), sent


@pytest.mark.parametrize("attack", PROBES)
@pytest.mark.parametrize("budget", [1500, None])
def test_queries_take_the_place_of_weights_and_are_counted(toy, captures, attack, budget):
    knowledge, sent = asking(toy, 1, budget)
    _, read = attacked(attack, captures(1), knowledge)
    nothing = attacked(PriorOnly(), captures(1), toy[1])[1]
    assert read.accuracy("prompt") > nothing.accuracy("prompt") + 0.2
    assert read.cost.queries == sum(sent) and (budget is None or sum(sent) <= budget)


def test_more_queries_read_more(toy, captures):
    few, many = (
        attacked(PrototypeLDA(), captures(2), asking(toy, 2, budget)[0])[1].accuracy() for budget in (200, 20_000)
    )
    assert few + 0.1 < many


def test_tokens_that_no_query_showed_are_not_guessed(toy, captures):
    knowledge, _ = asking(toy, 1, 200)
    found, _ = attacked(PrototypeLDA(), captures(1), knowledge)
    attack = PrototypeLDA().fit(captures(1).view("cloud"), knowledge)
    known = (attack.bias_ > UNSEEN).nonzero()[:, 0]
    assert len(known) < attack.vocabulary_ and all(torch.isin(t, known).all() for t in found.tokens)


def test_too_few_queries_are_a_sentence(toy, captures):
    with pytest.raises(NeedsKnowledge, match="100 tokens of queries are too few: an attack begins with 192"):
        attacked(Ridge(), captures(1), asking(toy, 1, 100)[0])
    with pytest.raises(UnsupportedOption, match="budget takes a whole number of tokens from 1, or None, got True"):
        toy[1].but(budget=True)


@pytest.mark.parametrize(("share", "least", "most"), [(0.01, 1, 1), (0.05, 1, 1), (0.1, 0.3, 0.99), (0.5, 0, 0.1)])
def test_a_head_near_the_public_one_is_read_and_a_far_one_is_not(toy, share, least, most):
    """share: of each weight's standard deviation by which the learner's embeddings and head differ at random."""
    own, draw = copy.deepcopy(toy[0]), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in [own.model.embed_tokens.weight, *own.model.layers[:2].parameters()]:
            weight.add_(share * weight.std() * torch.randn(weight.shape, generator=draw))
    capture = record(lk.split(own, head=2, tail=2), PROMPTS, new_tokens=NEW, eos_token_id=NEVER)
    _, read = attacked(VocabMatch(), capture, toy[1].but(head="fine-tuned"), "eavesdrop_up")
    assert least <= read.accuracy() <= most


SAYS = "None of the tokens explains what crossed"


def test_matching_says_when_what_it_knows_explains_nothing(toy, stranger, captures, recwarn):
    for know in (stranger, stranger.but(text=None)):
        with pytest.warns(UserWarning, match=f"{SAYS} at .* other weights, another cut or codec"):
            attacked(VocabMatch(), captures(2), know)
    recwarn.clear()
    attacked(VocabMatch(), captures(2), toy[1])
    assert not [w for w in recwarn if SAYS in str(w.message)]


@pytest.mark.parametrize("widths", [(8, 1000, 4096), (1,), (5, 6)])
def test_candidates_may_be_more_than_there_are_tokens(toy, captures, widths):
    assert len(toy[1].tokenizer) < 1000
    _, read = attacked(VocabMatch(widths=widths), captures(2), toy[1])
    assert read.accuracy() == read.accuracy("reply") == read.exact() == 1


@pytest.mark.filterwarnings(f"ignore:{SAYS}")
@pytest.mark.parametrize("attack", [*PROBES, pytest.param(VocabMatch(), id="VocabMatch")])
def test_the_wrong_head_tells_no_more_than_no_wire(stranger, captures, attack):
    _, read = attacked(attack, captures(2), stranger)
    nothing = attacked(PriorOnly(), captures(2), stranger)[1]
    assert read.accuracy() < nothing.accuracy() + 0.1


def test_a_codec_that_is_not_the_one_named_costs_tokens_or_candidates(toy):
    capture = record(lk.split(toy[0], head=2, tail=2, codec="int8:token"), PROMPTS)
    wrong = replace(capture, manifest={**capture.manifest, "up": "int8:group=16+hadamard=16"})
    right, other = (attacked(VocabMatch(), c, toy[1])[1] for c in (capture, wrong))
    assert right.accuracy() == 1
    assert other.cost.candidates > right.cost.candidates


@pytest.mark.parametrize("name", ["toy-llama", "toy-gptj", "toy-gemma2", "toy-granite", "toy-bloom", "toy-opt"])
@pytest.mark.parametrize("tail", [0, 2, 5])
def test_the_tail_says_what_the_model_says(name, tail):
    model, tok = lk.load(name)
    capture = record(lk.split(model, head=0, tail=tail), PROMPTS, new_tokens=NEW, eos_token_id=NEVER)
    found, read = attacked(RunTail(), capture, Knowledge(model, tok), "eavesdrop_down")
    assert read.accuracy("reply") == 1 and len(read.tokens.query("kind == 'reply'")) == len(PROMPTS) * NEW
    assert agreement(found, capture, model)[:2] == (1, 1)


def test_running_the_tail_changes_no_logit(toy):
    ids = torch.arange(3, 33)[None]
    with torch.inference_mode():
        whole = toy[0](ids, output_hidden_states=True)
    for start in range(1, LAYERS):
        assert torch.allclose(said(tail_side(toy[0], start), whole.hidden_states[start][0]), whole.logits[0], atol=1e-4)


def test_without_a_tail_the_lens_is_the_model(toy, captures):
    capture = captures(LAYERS - 1)
    assert attacked(LogitLens(), capture, toy[1], "eavesdrop_down")[1].accuracy("reply") == 1


def test_a_tuned_lens_needs_no_tail_layers(toy, captures):
    capture = captures(2)
    plain, tuned = (
        agreement(attacked(lens, capture, toy[1])[0], capture, toy[0]) for lens in (LogitLens(), TunedLens())
    )
    assert tuned.best > plain.best and tuned.top10 > plain.top10 and tuned.positions == plain.positions


def test_a_foreign_tail_says_nothing(toy, stranger, captures):
    found, read = attacked(RunTail(), captures(2), stranger)
    assert read.accuracy("reply") < 0.1 and agreement(found, captures(2), toy[0]).best < 0.1


def test_a_cut_that_is_not_known_is_found_from_below(toy, captures):
    knowledge = toy[1].but(layer=False)
    view = captures(2).view("eavesdrop_down")
    assert RunTail().fit(view, knowledge).place_.depth == LAYERS - 2


def test_what_is_guessed_behind_the_text_is_not_counted(toy):
    capture = record(lk.split(toy[0], head=2, tail=2), PROMPTS)
    found, read = attacked(RunTail(), capture, toy[1])
    lengths = [len(c.down.vectors) for c in capture.view("cloud").conversations()]
    assert [int(p[-1]) for p in found.positions] == lengths
    assert read.tokens.groupby("conversation").position.max().tolist() == [length - 1 for length in lengths]
    assert agreement(found, capture, toy[0])[:2] == (1, 1)


def test_rejected_drafts_at_the_end_are_not_counted(toy):
    options = dict(new_tokens=12, eos_token_id=NEVER, prompt_lookup_num_tokens=3)
    capture = record(lk.split(toy[0], head=2, tail=2), ["na na na na na na", "abcabcabcabcabc"], **options)
    view = capture.view("cloud")
    lengths = capture.sealed.open()["length"].tolist()
    assert any(len(c.withdrawn.vectors) for c in view.conversations())
    found, down = attacked(RunTail(), capture, toy[1])
    assert down.accuracy("reply") == 1 == agreement(found, capture, toy[0]).best
    assert down.tokens.groupby("conversation").position.max().tolist() == [length - 1 for length in lengths]
    assert attacked(VocabMatch(), capture, toy[1])[1].accuracy() == 1


def test_optimised_embeddings_are_the_tokens_where_no_layer_stands_before(toy, captures):
    _, read = attacked(SoftEmbedding(), captures(0), toy[1])
    assert read.accuracy() == 1


def test_optimising_is_slower_and_worse_than_matching(toy, captures):
    soft, match = (attacked(attack, captures(4), toy[1])[1] for attack in (SoftEmbedding(), VocabMatch()))
    assert soft.accuracy() < match.accuracy()


def test_an_inverter_is_causal_and_the_same_for_a_seed(toy, captures):
    view = captures(2).view("cloud")
    vectors = view.conversations()[0].up.vectors
    inverter, same, other = (clone(SMALL).set_params(seed=seed).fit(view, toy[1]) for seed in (0, 0, 1))
    whole = inverter.beliefs(vectors)
    assert torch.equal(whole, same.beliefs(vectors)) and not torch.equal(whole, other.beliefs(vectors))
    for length in (1, 2, 9):
        assert torch.allclose(inverter.beliefs(vectors[:length]), whole[:length], atol=1e-4)


def test_training_leaves_the_random_state_alone(toy, captures):
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    clone(SMALL).fit(captures(2).view("cloud"), toy[1])
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize(("attack", "what"), NEEDS)
def test_an_attack_refuses_without_what_it_needs(toy, captures, attack, what):
    knowledge = toy[1].but(**LACKS[what])
    assert not knowledge.has(what)
    with pytest.raises(NeedsKnowledge, match=f"{type(attack).__name__} needs .*{re.escape(what)}"):
        clone(attack).fit(captures(1).view("cloud"), knowledge)


@pytest.mark.parametrize("attack", [a for a in NAMED if a.values[0].reads])
def test_an_observer_who_does_not_see_the_direction_cannot_attack(toy, captures, attack):
    blind = {"up": "eavesdrop_down", "down": "eavesdrop_up"}[attack.reads]
    with pytest.raises(UnsupportedOption, match=f"{blind} does not see what goes {attack.reads}"):
        clone(attack).fit(captures(1).view(blind), toy[1])


@pytest.mark.parametrize("attack", NAMED)
def test_an_attack_is_an_estimator(toy, captures, attack):
    copy = clone(attack)
    assert copy is not attack and copy.get_params() == attack.get_params()
    with pytest.raises(NeedsKnowledge, match="was not fitted"):
        copy.reconstruct(captures(1).view("cloud"))


@pytest.mark.parametrize("attack", NAMED)
def test_an_attack_prints_its_threat_model(toy, captures, attack):
    looks = f"reads what goes {attack.reads}" if attack.reads else "reads no vector"
    assert looks in repr(attack) and all(what in repr(attack) for what in attack.requires)
    fitted = clone(attack).fit(captures(1).view("cloud"), toy[1])
    assert "What the attacker knows" in repr(fitted)
