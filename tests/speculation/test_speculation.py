"""lk.speculate: the tokens of one at a time, wherever a draft is wrong; drafts only where they pay; their price."""

import threading

import pytest
import torch
from sequence import GREEDY, PROMPT, N, assert_same

import lsplit_kit as lk
from lsplit_kit.errors import LsplitError
from lsplit_kit.split.lookup import Guess, Lookup
from lsplit_kit.split.pace import PROBE, Odds, Pace, StepTime, expected

torch.set_num_threads(1)


class Oracle:
    """Drafts what the model will say, but for one place of the text."""

    name = "oracle"

    def __init__(self, text, wrong=-1):
        self.text, self.wrong = text, wrong

    def begin(self, ids):
        self.length = len(ids)

    def extend(self, ids, vector):
        self.length += len(ids)
        assert vector is not None

    def guess(self, drafted):
        place = self.length + len(drafted)
        return Guess(self.text[place] ^ (place == self.wrong), self.name, ()) if place < len(self.text) else None

    def usual(self, kind):
        return 0.9


def knowing(split, wanted, wrong=-1, **options):
    """A speculation that drafts all it can from an oracle: on a clock that stands still, drafts cost nothing."""
    fast = lk.speculate(split, draft="lookup", **options)
    fast.sources, fast.clock = [Oracle(wanted.sequences[0].tolist(), wrong)], lambda: 0.0
    return fast


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
@pytest.mark.parametrize("body", [None, "loopback"])
def test_a_draft_rejected_at_each_position(llama, ids, sequential, policy, body):
    split = lk.split(llama[0], head=2, tail=1, body=body, cache=policy)
    start = ids.shape[1]
    for place in range(start + 2, start + N):
        fast = knowing(split, sequential, wrong=place)
        assert_same(fast.generate(ids, min_new_tokens=N, **GREEDY), sequential)
        # the prompt, a step without drafts, all up to the wrong draft, and all behind it
        assert fast.ledger()["tokens"].tolist() == [n for n in (1, 1, place - start - 1, start + N - place - 1) if n]


def test_a_real_host(llama, ids, sequential):
    with lk.host("toy-llama", head=2, tail=1) as host, lk.split(llama[0], head=2, tail=1, body=host.address) as split:
        for place in range(ids.shape[1] + 2, ids.shape[1] + N, 3):
            assert_same(knowing(split, sequential, place).generate(ids, min_new_tokens=N, **GREEDY), sequential)


@pytest.mark.parametrize("length", range(1, N))
def test_a_draft_is_no_longer_than_the_text_may_be(llama, ids, sequential, length):
    fast = knowing(lk.split(llama[0], head=2, tail=1), sequential)
    options = {**GREEDY, "max_new_tokens": length}
    assert_same(fast.generate(ids, min_new_tokens=length, **options), sequential, length)
    assert fast.totals()["revealed"] == 0 and fast.totals()["positions"] == ids.shape[1] + length - 1


@pytest.mark.parametrize("place", range(N))
def test_an_end_token_inside_a_draft(llama, ids, sequential, place):
    new = sequential.sequences[0, ids.shape[1] :].tolist()
    first = new.index(new[place])  # where a model for which this token ends the text would stop
    fast = knowing(lk.split(llama[0], head=2, tail=1), sequential)
    assert_same(fast.generate(ids, eos_token_id=new[place], **GREEDY), sequential, first + 1)
    assert fast.totals()["revealed"] == 0


@pytest.mark.parametrize("most", [1, 4])
def test_no_more_drafts_than_asked_for(llama, ids, sequential, most):
    fast = knowing(lk.split(llama[0], head=2, tail=1), sequential, most=most)
    assert_same(fast.generate(ids, min_new_tokens=N, **GREEDY), sequential)
    assert fast.ledger()["drafted"].max() == most


@pytest.mark.parametrize("name", ["toy-mistral", "toy-gemma2", "toy-gpt2", "toy-bloom"])
@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
def test_other_families(name, policy):
    model, tok = lk.load(name)
    ids = tok(PROMPT, return_tensors="pt")["input_ids"]
    wanted = model.generate(ids, min_new_tokens=N, **GREEDY)
    fast = knowing(lk.split(model, head=1, tail=2, body="loopback", cache=policy), wanted, wrong=ids.shape[1] + 5)
    assert_same(fast.generate(ids, min_new_tokens=N, **GREEDY), wanted)


def test_lookup_and_text_in_text_out(llama, ids, sequential):
    fast = lk.speculate(lk.split(llama[0], head=2, tail=1))
    fast.clock = lambda: 0.0
    assert_same(fast.generate(ids, min_new_tokens=N, **GREEDY), sequential)
    fast.trips.clear()
    ticking = {"max_new_tokens": 30, "prefix_allowed_tokens_fn": lambda row, said: [int(said[-10])]}  # "tick tock "
    found = fast.generate(ids, do_sample=False, **ticking)
    assert found.tolist() == llama[0].generate(ids, do_sample=False, **ticking).tolist()
    assert fast.totals()["tokens"] == 30 and fast.totals()["trips"] < 12
    assert fast.generate(PROMPT, max_new_tokens=5, do_sample=False) == fast.lm.generate(
        PROMPT, max_new_tokens=5, do_sample=False
    )


def test_sampled_without_a_draft_is_the_same_draw(llama, ids):
    split = lk.split(llama[0], head=2, tail=1)
    fast = knowing(split, llama[0].generate(ids, **GREEDY))
    fast.pace.length = lambda odds: 0
    found = []
    for m in (split, fast):
        torch.manual_seed(5)
        found.append(m.generate(ids, max_new_tokens=9, do_sample=True).tolist())
    assert found[0] == found[1]


def test_sampled_drafts_are_accepted_as_often_as_they_would_be_drawn(llama, ids):
    fast = knowing(lk.split(llama[0], head=2, tail=1), llama[0].generate(ids, min_new_tokens=N, **GREEDY))
    options = dict(max_new_tokens=4, min_new_tokens=4, do_sample=True, top_k=3, temperature=0.5)
    torch.manual_seed(0)
    ours = [fast.generate(ids, **options)[0, -1].item() for _ in range(120)]
    torch.manual_seed(1)
    plain = [fast.lm.generate(ids, **options)[0, -1].item() for _ in range(120)]
    assert fast.totals()["accepted"] > 40
    for token in set(plain):
        assert abs(ours.count(token) - plain.count(token)) <= 31  # four standard deviations of a difference


def emulated(model, **network):
    split = lk.split(model, head=2, tail=1)
    split.remote.link = lk.EmulatedLink(split.link, **network)
    return split


def test_a_long_round_trip_is_hidden_and_a_narrow_line_left_alone(llama, ids):
    options = dict(max_new_tokens=60, min_new_tokens=60, do_sample=False, return_dict_in_generate=True)
    wanted = llama[0].generate(ids, **options)
    far = knowing(emulated(llama[0], rtt_ms=80), wanted)
    narrow = knowing(emulated(llama[0], up_mbps=0.001, down_mbps=0.001), wanted)
    for fast in (far, narrow):
        fast.clock = None  # the link's own
        fast.sources[0].usual = lambda kind: 0.3
        fast.odds.note = lambda kind, accepted: None  # what drafts are worth stays as it is
        assert fast.generate(ids, **options).sequences.tolist() == wanted.sequences.tolist()
    assert far.totals()["trips"] < 35
    # one position costs what a step costs: only the first drafts, and the probes
    assert 60 // PROBE <= narrow.totals()["drafted"] <= 6


def test_the_clock_of_a_link_counts_computing_in_a_timed_block_only(llama):
    link = emulated(llama[0], rtt_ms=80).link
    assert link.moment == link.moment == link.now == 0
    with link.timed():
        before = link.moment
        sum(range(300_000))
        assert link.moment > before and link.now == 0
    assert link.moment == link.now > before


def test_the_price_is_what_a_tap_counts(llama, ids, sequential):
    fast = knowing(lk.split(llama[0], head=2, tail=1, body="loopback"), sequential, wrong=ids.shape[1] + 6)
    with lk.tap(fast.lm) as wire:
        fast.generate(ids, min_new_tokens=N, **GREEDY)
    table, crossed = fast.ledger(), wire.ledger().query("kind == 'step'").groupby("direction")
    assert table["up"].sum() == crossed["frame"].sum()["up"] and table["down"].sum() == crossed["frame"].sum()["down"]
    sent = sum(c.shape[1] for c in wire.crossings if c.kind == "step" and c.direction == "up")
    assert table["positions"].sum() == sent
    assert fast.totals()["revealed"] == sent - (ids.shape[1] + N - 1) == N - 1 - 6
    wrong = table[table["drafted"] > table["accepted"]].iloc[0]
    assert wrong["extra_up"] == round(wrong["up"] * wrong["revealed"] / wrong["positions"])
    assert fast.by_source().loc["oracle", ["drafted", "accepted"]].tolist() == [table["drafted"].sum(), N - 4]
    assert f"{N} in 4 round trips" in repr(fast)


def test_the_price_when_everything_is_sent_again(llama, ids, sequential):
    fast = knowing(lk.split(llama[0], head=2, tail=1, cache="none"), sequential, wrong=ids.shape[1] + 6)
    fast.generate(ids, min_new_tokens=N, **GREEDY)
    wrong = fast.ledger().query("drafted > accepted").iloc[0]
    assert wrong["positions"] == wrong["start"] + wrong["drafted"]
    assert wrong["extra_up"] * wrong["positions"] == wrong["up"] * wrong["revealed"]


def test_a_thread_that_does_not_speculate_is_left_alone(llama, ids, sequential):
    split = lk.split(llama[0], head=2, tail=1)
    fast, found = knowing(split, sequential), {}

    def work(name, model):
        found[name] = [model.generate(ids, min_new_tokens=N, **GREEDY) for _ in range(3)]

    threads = [threading.Thread(target=work, args=pair) for pair in (("fast", fast), ("plain", split))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found["fast"]) == len(found["plain"]) == 3
    for out in found["fast"] + found["plain"]:
        assert_same(out, sequential)
    assert sum(trip.tokens for trip in fast.trips) == 3 * N and len(fast.trips) == 3 * 2 + 1


def test_after_a_stop_nothing_is_left_behind(llama, ids, sequential):
    fast = knowing(lk.split(llama[0], head=2, tail=1), sequential)

    def stop(ids, scores, **kwargs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fast.generate(ids, stopping_criteria=[stop], **GREEDY)
    assert not fast.lm.remote.watchers and not fast.lm.get_output_embeddings()._forward_pre_hooks
    assert_same(fast.lm.generate(ids, min_new_tokens=N, prompt_lookup_num_tokens=2, **GREEDY), sequential)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (dict(num_beams=2), "one row"),
        (dict(num_return_sequences=2, do_sample=True), "one row"),
        (dict(use_cache=False), "use_cache"),
        (dict(cache_implementation="static"), "cache_implementation"),
        (dict(guidance_scale=2.0), "Guidance"),
        (dict(assistant_model=object()), "assistant_model"),
    ],
)
def test_options_that_drafts_cannot_follow(llama, ids, options, says):
    with pytest.raises(LsplitError, match=says):
        lk.speculate(lk.split(llama[0])).generate(ids, max_new_tokens=3, **options)


def test_bad_arguments(llama, ids):
    split = lk.split(llama[0])
    with pytest.raises(LsplitError, match="one row at a time, got 2"):
        lk.speculate(split).generate(ids.repeat(2, 1), max_new_tokens=3)
    with pytest.raises(LsplitError, match="split it first"):
        lk.speculate(llama[0])
    with pytest.raises(LsplitError, match="auto, lookup, head"):
        lk.speculate(split, "medusa")
    with pytest.raises(LsplitError, match="no draft net for this model"):
        lk.speculate(split, "head")
    for most in (0, True, 2.5, 1000):
        with pytest.raises(LsplitError, match="from 1 to 256"):
            lk.speculate(split, most=most)


def test_lookup_finds_what_followed_the_longest_ending():
    source = Lookup()
    source.begin([1, 2, 3, 9, 2, 3, 7, 1, 2])
    assert source.guess([])[:3] == (3, "lookup", (2, False, False))
    assert source.guess([3]).token == 9  # "1 2 3" stood there, although "2 3" was last followed by 7
    assert source.guess([3]).kind[0] == 3
    assert source.guess([5]) is None
    source.extend([5, 6, 1, 2])
    assert source.guess([]).token == 5  # the latest of two


@pytest.mark.parametrize("parts", [(0.1, 0.02, 0.003), (0.05, 0.0, 0.05)])
def test_what_a_step_takes_is_learnt(parts):
    time = StepTime()
    for n in [1, 5, 2, 1, 9, 3, 1, 4] * 20:
        time.note(n, parts[0] + parts[1] * (n > 1) + parts[2] * (n - 1))
    assert time.parts() == pytest.approx(parts, abs=6e-3)
    time.note(1, 100.0)  # a hiccup
    assert time(1) == pytest.approx(parts[0], rel=0.15)


@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_the_length_is_the_best_of_the_formula(chance):
    pace = Pace()
    for n in [1, 2, 5, 9] * 20:
        pace.note(n - 1, 0.1 + 0.03 * (n > 1) + 0.004 * (n - 1))
    odds = [chance] * 16
    rates = [(1 - chance ** (k + 1)) / (1 - chance) / pace.time(k + 1) for k in range(17)]
    assert pace.length(odds) == rates.index(max(rates))
    assert expected(odds) == pytest.approx((1 - chance**17) / (1 - chance))


def test_drafts_that_do_not_pay_are_tried_now_and_then():
    pace = Pace()
    sent = []
    for _ in range(4 * PROBE):
        sent.append(pace.length([0.01]))
        pace.note(sent[-1], 0.1)
    assert set(sent) == {0, 1} and 3 <= sum(sent) <= 4
    assert Pace().length([0.99]) == 0  # what one position takes is not known yet


def test_chances_begin_at_a_guess_and_follow_what_is_seen():
    odds = Odds(lambda kind: 0.5)
    assert odds("a") == 0.5
    for _ in range(40):
        odds.note("a", True)
    assert odds("a") > 0.85 and odds("b") == 0.5
    for _ in range(100):
        odds.note("a", False)
    assert odds("a") < 0.25
