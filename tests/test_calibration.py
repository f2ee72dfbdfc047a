"""Transform coding: what is calibrated, what crosses, what is refused, and that a model's calibration is found."""

import contextlib

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import lsplit_kit as lk
from lsplit_kit.errors import (
    CalibrationMissing,
    CodecError,
    LimitExceeded,
    NonFiniteError,
    PlanError,
    UnsupportedOption,
)
from lsplit_kit.measure import text_quality
from lsplit_kit.measure.calibrate import calibrate, fitted, hidden_states
from lsplit_kit.measure.corpus import DOMAINS, corpus, shared, turns, windows
from lsplit_kit.quantization import Calibration, Encoded, calibrations, codec
from lsplit_kit.quantization.calibration import bound, unbound
from lsplit_kit.split import sessions

torch.set_num_threads(1)
D = 24


def vectors(count, seed=0):
    draw = np.random.default_rng(seed)
    mixed = draw.normal(size=(count, D)) @ (
        np.random.default_rng(7).normal(size=(D, D)) * 2.0 ** (-np.arange(D)[:, None] / 4)
    )
    mixed[::50] += 400 * np.eye(D)[3]  # first tokens
    return mixed + 5


@pytest.fixture(scope="module")
def known():
    return fitted(vectors(2000), np.random.default_rng(1).normal(size=(2000, D)), {"depth": 1}, classes=4)


def klt(known, step=0.1):
    return codec(f"klt:cal={known.id}:step={step}+ans", {known.id: known})


def test_fewer_bits_than_levels_at_a_smaller_error(known):
    x = torch.from_numpy(vectors(400, 2)).float()
    coded, plain = klt(known).encode(x), codec("int8:token").encode(x)
    error, theirs = ((y - x).square().mean() for y in (klt(known).decode(coded), codec("int8:token").decode(plain)))
    assert error < theirs and len(coded.payload) < 0.8 * len(plain.payload)


def test_a_smaller_step_costs_more_and_errs_less(known):
    x = torch.from_numpy(vectors(100, 3)).float()
    sizes, errors = [], []
    for step in (0.4, 0.2, 0.1, 0.05):
        coded = klt(known, step).encode(x)
        sizes.append(len(coded.payload))
        errors.append(float((klt(known, step).decode(coded) - x).square().mean()))
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(0, D), (1, D), (2, 0, D), (1, 1, D), (3, 5, D), (17, D)]),
    fill=st.sampled_from(["draw", 0.0, 5.0, 1e-42, 1e30, -3e38]),
)
def test_round_trip(known, shape, fill):
    x = torch.randn(shape) * 5 if fill == "draw" else torch.full(shape, fill)
    coded = klt(known).encode(x)
    y = klt(known).decode(coded)
    assert y.shape == x.shape and len(coded.payload) <= klt(known).payload_bytes(shape)
    assert klt(known).length(coded.payload + b"tail", 0, shape) == len(coded.payload)
    if x.numel():
        apart = np.abs((y - x).numpy().reshape(-1, D) @ known.basis).max()
        assert (y == x).all() or apart < 0.1 * known.steps.max() * 1.2


def test_what_the_calibration_does_not_fit_crosses_plain(known):
    x = torch.full((2, D), 1e30)
    coded = klt(known).encode(x)
    assert torch.equal(klt(known).decode(coded), x) and len(coded.payload) <= 4 * x.numel() + 8


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_hostile_payloads_are_typed_errors(known, data):
    good = bytearray(klt(known).encode(torch.from_numpy(vectors(3, 5)).float()).payload)
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    payload = bytes(good[: data.draw(st.integers(0, len(good)))]) if data.draw(st.booleans()) else bytes(good)
    try:
        y = klt(known).decode(Encoded(klt(known).spec, (3, D), payload))
    except CodecError:
        return
    assert y.shape == (3, D) and torch.isfinite(y).all()


def test_nan_and_other_widths_are_refused(known):
    with pytest.raises(NonFiniteError):
        klt(known).encode(torch.full((1, D), float("nan")))
    with pytest.raises(CodecError, match=f"vectors of {D} values, got 8"):
        klt(known).encode(torch.zeros(1, 8))


@pytest.mark.parametrize("spec", ["klt", "klt:step=0.1", "klt:step=0+ans", "klt:step=0.1+zstd", "klt:step=0.1+ans=3"])
def test_spellings_that_are_none(spec):
    with pytest.raises(CodecError, match="klt"):
        codec(spec)


@pytest.mark.parametrize("spec", ["int4:token+mean", "int8+mean+hadamard=8", "nf4:group=8+outliers=2+mean"])
def test_a_calibrated_mean_makes_the_range_smaller(known, spec):
    x = torch.from_numpy(vectors(200, 6)).float()
    x[..., 3] += 300  # a channel that is far from zero in every vector
    far = fitted(x.numpy(), np.ones((200, D)), {}, classes=4)
    own = codec(spec.replace("+mean", f"+mean={far.id}"), {far.id: far})
    plain = codec(spec.replace("+mean", ""))
    error, theirs = (float((c.decode(c.encode(x)) - x).square().mean()) for c in (own, plain))
    assert error < 0.7 * theirs and own.payload_bytes((7, D)) == plain.payload_bytes((7, D))
    assert own.calibration is far and own.decode(own.encode(torch.zeros(0, D))).shape == (0, D)


def test_a_spec_is_bound_once():
    assert unbound("int4:token+mean") and unbound("klt:step=0.1+ans") and not unbound("int4:token")
    for spec in ("int4:token+mean+hadamard=64", "klt:step=0.1+ans"):
        with_name = bound(spec, 32 * "a")
        assert not unbound(with_name) and with_name.replace("=" + 32 * "a", "").replace("cal:", "") == spec


def test_without_a_calibration_there_is_a_sentence():
    with pytest.raises(CalibrationMissing, match="lk.split"):
        codec("klt:step=0.1+ans").encode(torch.zeros(1, D))
    with pytest.raises(CalibrationMissing, match=r"\+mean=\.\.\."):
        codec("int4+mean").encode(torch.zeros(1, D))
    with pytest.raises(CalibrationMissing, match="is not here"):
        codec("klt:cal=" + 32 * "0" + ":step=0.1+ans")


@pytest.mark.parametrize("where", [0, 8, 40, 200, 600, -1])
def test_damaged_files_are_refused_or_have_another_name(known, where):
    raw = bytearray(known.raw)
    raw[where] ^= 0x55
    with contextlib.suppress(CodecError):
        assert Calibration(bytes(raw)).id != known.id
    with pytest.raises(CodecError, match="no calibration"):
        Calibration(known.raw[: len(known.raw) // 2])
    with pytest.raises(CodecError, match="at most"):
        Calibration(bytes(9 << 20))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    model, tokenizer = lk.load("toy-llama")
    pieces = windows(tokenizer, "prose")[:6]
    d = model.config.hidden_size
    found = hidden_states(model, pieces, [1, 3])
    made = {n: fitted(h, g, {"depth": n}, classes=4) for n, (h, g) in found.items()}
    assert all(h.shape == g.shape == (sum(map(len, pieces)), d) for h, g in found.values())
    return model, pieces, made


def test_gradients_are_those_of_the_prediction(toy):
    model, pieces, _ = toy
    (_, down), (_, again) = (hidden_states(model, pieces[:1], [3], seed=1)[3] for _ in range(2))
    assert np.array_equal(down, again) and np.abs(down).max() > 0
    with pytest.raises(PlanError, match="from 1 to"):
        hidden_states(model, pieces[:1], [99])


def test_a_host_that_lacks_a_calibration_is_given_it_and_the_ledger_counts_it(toy, monkeypatch):
    model, pieces, made = toy
    own = {known.id: known for known in made.values()}
    up, down = (f"klt:cal={made[n].id}:step=0.05+ans" for n in (1, 3))
    layers = model.config.num_hidden_layers
    lm = lk.split(model, head=1, tail=layers - 3, body="loopback")
    lm.remote.up, lm.remote.down = codec(up, own), codec(down, own)  # as where they lie in the local side's folder
    with lk.tap(lm) as wire:
        logits = lm(pieces[0][None]).logits
    table = wire.ledger()
    sent = table[(table["kind"] == "calibrate") & (table["direction"] == "up")]
    assert len(sent) == 2 and sent["frame"].sum() > sum(len(known.raw) for known in own.values())
    assert wire.totals()["frame"].to_dict() == dict(zip(("up", "down"), wire.counters()["stream"], strict=True))
    with torch.no_grad():
        assert (logits - model(pieces[0][None]).logits).abs().max() < 0.5
    with lk.tap(lm) as wire:
        lm(pieces[1][None])
    assert not (wire.ledger()["kind"] == "calibrate").any()  # once a connection


def test_a_connection_brings_few_calibrations(known):
    body = lk.split(lk.load("toy-llama")[0]).link.body
    for n in range(sessions.MAX_CALIBRATIONS):
        body.calibrate(fitted(vectors(300), vectors(300), {"n": n}, classes=2).raw)
    with pytest.raises(LimitExceeded, match="at most"):
        body.calibrate(known.raw)


def test_too_few_vectors_are_a_sentence():
    with pytest.raises(UnsupportedOption, match="tokens"):
        fitted(vectors(20), vectors(20), {})


@pytest.mark.parametrize("depths", [[99], [0], [2, 7]])
def test_a_depth_that_the_model_lacks_is_refused_before_a_text_is_read(depths, tmp_path):
    with pytest.raises(PlanError, match=f"from 1 to 6, got {', '.join(map(str, depths))}"):
        next(calibrate("toy-llama", depths, [tmp_path / "no such text"]))


def test_reading_long_texts_gives_no_warning_of_their_length(caplog):
    _, tokenizer = lk.load("toy-llama")
    tokenizer.model_max_length = 100
    logger = transformers.logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    try:
        assert len(windows(tokenizer, "prose")) > 1 and not caplog.records
    finally:
        logger.removeHandler(caplog.handler)


def test_a_model_without_a_calibration_is_told_how_to_make_one():
    with pytest.raises(CalibrationMissing, match="lsplit calibrate"):
        lk.split(lk.load("toy-llama")[0], codec="auto:text")


def test_texts_are_there_and_apart():
    for domain in DOMAINS:
        ours, held = corpus(domain, "calibrate"), corpus(domain)
        assert len(ours) > len(held) > 5 and not set(ours) & set(held)
    assert {turn["role"] for turn in turns(corpus("chat")[0])} == {"user", "assistant"}
    assert shared([torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4])]) == 2
    with pytest.raises(UnsupportedOption, match="prose"):
        corpus("poems")


def test_smollm2_finds_its_calibrations_and_stays_close():
    model, tokenizer = lk.load("smollm2")
    lm = lk.split(model, codec="auto:text", body="loopback")
    assert lm.remote.up.calibration.facts["depth"] == 2 and lm.remote.down.calibration.facts["depth"] == 28
    ids = windows(tokenizer, "prose")[1][:200]
    with lk.tap(lm) as wire:
        row = text_quality({"auto": lm}, model, ids).loc["auto"]
    bits = 8 * wire.totals()["payload"].sum() / (2 * 200 * 576)
    assert bits < 4.2 and row["kl"] < 0.01 and row["top1"] > 0.9
    assert {known.facts["depth"] for known in calibrations() if known.facts.get("model") == "smollm2"} >= {2, 28}
