"""What policies send and recompute, by counting, against real ledgers, real frames and torch's own FLOP counter."""

import copy

import pytest
import torch
from rpyc.core import brine
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

import lsplit_kit as lk
from lsplit_kit import measure
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.measure.traffic import _digits, _mark
from lsplit_kit.split.body import body_of

torch.set_num_threads(1)
POLICIES = ("none", "hidden", "kv")


@pytest.fixture(scope="module")
def toy():
    return lk.load("toy-llama")[0]


def prompt_of(length):
    return torch.randint(3, 300, (1, length), generator=torch.Generator().manual_seed(1))


def generated(model, policy, prompt, new, codec=None, body="loopback", **options):
    """The tap of one reply, and its tokens."""
    lm = lk.split(model, body=body, cache=policy, codec=codec)
    with lk.tap(lm) as wire:
        out = lm.generate(prompt_of(prompt), max_new_tokens=new, min_new_tokens=new, do_sample=False, **options)
    return wire, out


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("prompt", "new"), [(1, 1), (1, 12), (9, 1), (7, 5), (3, 170)])
def test_every_byte_is_the_ledgers(toy, policy, prompt, new):
    wire, _ = generated(toy, policy, prompt, new)
    sums, width = wire.totals(), toy.config.hidden_size
    assert tuple(sums["payload"]) == measure.reply_bytes(policy, prompt, new, width)
    framed, opened = measure.reply_bytes(policy, prompt, new, width, framed=True), measure.open_bytes(policy)
    assert tuple(sums["frame"]) == (framed.up + opened.up, framed.down + opened.down) == wire.counters()["stream"]
    steps = wire.ledger().query("kind == 'step'")
    for token in {1, (new + 1) // 2, new}:
        rows = steps[steps["step"] == token].set_index("direction")
        for column, frames in (("payload", False), ("frame", True)):
            counted = measure.token_bytes(policy, prompt, token, width, framed=frames)
            assert (rows.loc["up", column], rows.loc["down", column]) == counted
        assert rows.loc["up", "shape"][1] == measure.token_vectors(policy, prompt, token)
    assert sum(s[1] for s in steps.query("direction == 'up'")["shape"]) == measure.reply_vectors(policy, prompt, new)


@pytest.mark.parametrize(("codec", "sizes"), [("fp16", 2), (("fp16", "fp32"), (2, 4)), (("fp32", "bf16"), (4, 2))])
def test_other_number_formats(toy, codec, sizes):
    wire, _ = generated(toy, "kv", 5, 4, codec)
    assert tuple(wire.totals()["payload"]) == measure.reply_bytes("kv", 5, 4, 64, sizes)
    rows = wire.ledger().query("kind == 'step'").groupby("direction")["frame"].sum()
    assert (rows["up"], rows["down"]) == measure.reply_bytes("kv", 5, 4, 64, sizes, framed=True)


@pytest.mark.parametrize(("policy", "new"), [("none", 6), ("hidden", 12), ("kv", 12)])
def test_smollm2s_ledger(policy, new):
    model, _ = lk.load("smollm2")
    wire, _ = generated(model, policy, 9, new)
    framed, opened = measure.reply_bytes(policy, 9, new, 576, framed=True), measure.open_bytes(policy)
    assert tuple(wire.totals()["payload"]) == measure.reply_bytes(policy, 9, new, 576)
    assert wire.counters()["stream"] == (framed.up + opened.up, framed.down + opened.down)


@pytest.mark.parametrize("prompt", [2, 40])
def test_99_percent_is_true_from_the_counted_token_on_and_not_before(toy, prompt):
    new = measure.reaches(prompt, 0.99)
    for count, reached in ((new - 1, False), (new, True)):
        kv, none = (generated(toy, p, prompt, count, body=None)[0].totals()["payload"] for p in ("kv", "none"))
        for way in ("up", "down"):
            assert (100 * int(kv[way]) <= int(none[way])) is reached
            share = measure.reduction("kv", prompt, count, way=way)
            assert share == 1 - kv[way] / none[way] and (share >= 0.99 - 1e-12) is reached


def test_a_single_token_saves_99_percent_from_position_100_on():
    for prompt in (1, 8, 60, 99):
        token = measure.reaches(prompt, 0.99, one=True)
        assert prompt + token - 1 == 100
        assert measure.token_reduction("kv", prompt, token) == pytest.approx(0.99)
        assert token == 1 + 99 * (prompt == 1) or measure.token_reduction("kv", prompt, token - 1) < 0.99
    assert measure.reaches(300, 0.99, one=True) == 2  # the prefill saves nothing, the next step is at position 301
    assert measure.token_reduction("kv", 300, 1) == 0


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("how", [{}, {"width": 64, "framed": True}, {"width": 16, "framed": True, "way": "up"}])
def test_reaches_is_the_first_and_stays_reached(share, how):
    for prompt in (1, 12, 300):
        new = measure.reaches(prompt, share, **how)
        assert measure.reduction("kv", prompt, new, **how) >= share - 1e-12
        assert new == 1 or measure.reduction("kv", prompt, new - 1, **how) < share
        assert measure.reduction("kv", prompt, 2 * new, **how) > share


def test_the_closed_formula():
    for p, n in ((1, 1), (1, 199), (20, 100), (512, 64)):
        assert measure.reduction("hidden", p, n) == pytest.approx(1 - (p + n - 1) / (n * p + n * (n - 1) / 2))
    assert measure.reduction("none", 5, 50) == 0 and measure.reduction("kv", 5, 1) == 0
    assert measure.reaches(1) == 199 and measure.reaches(10**6) == 101  # the most and the fewest tokens for 99 %


def test_never_is_none():
    assert measure.reaches(5, 1.0) is None and measure.reaches(5, 1.5) is None
    new = measure.reaches(5)
    assert measure.reaches(5, longest=5 + new - 1) == new
    assert measure.reaches(5, longest=5 + new - 2) is None and measure.reaches(9, longest=8) is None
    assert measure.reaches(5, 0.0) == 1


def test_frames_cost_a_little_and_down_less_than_up():
    plain, framed = (measure.reply_bytes("kv", 8, 100, 64, framed=f) for f in (False, True))
    assert plain.up == plain.down and plain.up < framed.down < framed.up
    assert plain.both == 2 * plain.up == plain.of("both")
    shares = [measure.reduction("kv", 8, 100, 64, framed=True, way=way) for way in ("up", "down", "both")]
    assert shares[0] < shares[2] < shares[1] < measure.reduction("kv", 8, 100)


def test_sizes_of_brines_integers_and_strings():
    import numpy as np

    numbers = [0, 1, 9, 10, 99, 100, 159, 160, 255, 256, 999, 1000, 9999, 10_000, 123_456, 10**9, 2**31 - 1]
    assert _digits(np.array(numbers)).tolist() == [len(brine.dump(n)) for n in numbers]
    sizes = [0, 1, 4, 5, 6, 255, 256, 257, 70_000]
    assert _mark(np.array(sizes)).tolist() == [len(brine.dump(bytes(n))) - n for n in sizes]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [(lambda: measure.reply_bytes("lru", 1, 1, 1), "Unknown cache policy 'lru'"),
     (lambda: measure.reply_bytes("kv", 0, 1, 1), "prompt takes a whole number from 1 on, got 0"),
     (lambda: measure.token_vectors("kv", 1, True), "new tokens takes a whole number"),
     (lambda: measure.reply_bytes("kv", 1, 1, 2.5), "width takes a whole number"),
     (lambda: measure.reply_bytes("kv", 1, 1, 2, (4, 0)), "value_bytes takes a whole number"),
     (lambda: measure.reduction("kv", 1, 1, way="left"), "way takes one of up, down, both"),
     (lambda: measure.reaches(1, way="left"), "way takes one of up, down, both"),
     (lambda: measure.story("kv", 1, 9, draft=2, kept=3), "kept takes 0 to the 2 guessed tokens"),
     (lambda: measure.moments("none", []), "kv and hidden, got 'none'")],
)  # fmt: skip
def test_what_does_not_fit_is_a_sentence(call, sentence):
    with pytest.raises(UnsupportedOption, match=sentence):
        call()


# FLOPs.


def counted(model, policy, prompt, new):
    """FLOPs of the body's decoder layers in one reply by torch's counter: weights, and all of attention."""
    lm = lk.split(model, cache=policy)
    layers = [m for m in lm.link.body.base.modules() if type(m).__name__ == "LlamaDecoderLayer"]
    counts = [0, 0]

    def run(layer, forward):
        def inside(*args, **kwargs):
            with FlopCounterMode(display=False) as flops:
                out = forward(*args, **kwargs)
            for op, count in flops.get_flop_counts()["Global"].items():
                counts["bmm" in str(op)] += count
            return out

        return inside

    for layer in layers:
        layer.forward = run(layer, layer.forward)
    with torch.no_grad():
        lm.generate(prompt_of(prompt), max_new_tokens=new, min_new_tokens=new, do_sample=False)
    return counts


@pytest.mark.parametrize("policy", POLICIES)
def test_flops_are_those_that_torch_counts(toy, policy):
    model = copy.deepcopy(toy)
    model.set_attn_implementation("eager")  # which computes the masked half too, and in products that are counted
    size, (prompt, new) = measure.body_size(model), (6, 5)
    weights, attention = counted(model, policy, prompt, new)
    passes = [(0, prompt)] + [(prompt + i, 1) if policy == "kv" else (0, prompt + i + 1) for i in range(new - 1)]
    assert weights == sum(2 * size.weights * count for _, count in passes)
    masked = sum(4 * size.attention * count * (count - 1) // 2 for _, count in passes)
    assert weights + attention - masked == measure.body_flops(policy, prompt, new, size).total


def test_the_bodys_size_is_that_of_its_layers(toy):
    size = measure.body_size(toy, head=1, tail=2)
    held = [p for n, p in body_of(toy, lk.SplitPlan(1, 2)).base.named_parameters() if p.dim() > 1]
    assert size.weights == sum(p.numel() for p in held)
    assert size.attention == 3 * toy.config.num_attention_heads * toy.config.head_dim
    assert measure.pass_flops(size, 511, 1) == sum(
        lk.SplitPlan(1, 2).table(toy, context=512).loc[["body"], "flops_per_token"]
    )


def test_hidden_saves_vectors_and_no_work():
    size = measure.BodySize(1000, 64)
    none, hidden, kv = (measure.body_flops(p, 20, 30, size) for p in POLICIES)
    assert none == hidden and none.first == kv.total and kv.again == 0 < none.again
    assert measure.body_flops("none", 20, 1, size).again == 0  # nothing was seen before the prefill


# Moments.


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("prompt", "new"), [(1, 1), (5, 2), (4, 3), (6, 12), (1, 40)])
def test_the_story_is_what_the_kit_sends(toy, policy, prompt, new):
    lm = lk.split(toy, body="loopback", cache=policy)
    ids, cache = prompt_of(60), DynamicCache(config=toy.config)
    told = measure.story(policy, prompt, new)
    at = 0
    with torch.no_grad(), lk.tap(lm) as wire:
        for moment in told:
            if moment.what == "rollback":
                cache.crop(-moment.rejected)
                at -= moment.rejected
            elif moment.what == "lost":
                lm.link.body.sessions.clear()
            else:
                lm(ids[:, at : moment.local], past_key_values=cache)
                at = moment.local
            slot, sessions = cache.layers[2], list(lm.link.body.sessions.values())
            assert slot.get_seq_length() == moment.local
            assert sum(session.have for session in sessions) == moment.host
    ups = [c for c in wire.crossings if c.direction == "up" and c.shape]
    sent = [(m.start, m.vectors, "replay" if m.what == "replay" else "step") for m in told if m.vectors]
    assert [(c.start, c.shape[1], c.kind) for c in ups] == sent
    if policy != "none":
        assert measure.moments(policy, wire.crossings) == told


def test_the_story_holds_a_draft_a_rollback_a_loss_and_a_replay():
    told = measure.story("kv", 6, 12)
    words = "prefill decode decode decode draft rollback decode lost replay decode decode decode"
    assert [m.what for m in told] == words.split()
    assert (told[4].vectors, told[5].rejected, told[5].host - told[5].local) == (5, 2, 2)
    assert told[6].start == told[5].local and told[8].vectors == told[8].local == told[7].local + 1
    assert told[-1].local == 6 + 12 - 1
    hidden, none = measure.story("hidden", 6, 12), measure.story("none", 6, 12)
    assert [m[:3] + m[4:] for m in hidden] == [m[:3] + m[4:] for m in told]
    assert [m.ran for m in hidden if m.vectors] == [m.local for m in told if m.vectors]
    assert all(m.start == m.host == 0 and m.vectors in (0, m.local) for m in none) and "replay" not in {
        m.what for m in none
    }
    assert measure.story("kv", 6, 12, draft=2, kept=2)[5].what == "decode"


def test_a_real_rollback_is_read_off_the_ledger(toy):
    wire, out = generated(toy, "kv", 8, 30, prompt_lookup_num_tokens=4)
    _, plain = generated(toy, "kv", 8, 30)
    found = measure.moments("kv", wire.crossings)
    assert torch.equal(out, plain) and found[0].what in ("prefill", "draft")
    ups = [c for c in wire.crossings if c.direction == "up" and c.shape]
    lower = sum(b.start < a.start + a.shape[1] for a, b in zip(ups, ups[1:], strict=False))
    assert 0 < lower == sum(m.what == "rollback" for m in found)
