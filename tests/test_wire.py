"""What is counted and what is kept: ledger, socket, capture."""

import sys

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import CacheMiss, CaptureError, FrameError, NonFiniteError
from lsplit_kit.split.body import body_of
from lsplit_kit.wire.message import Open, Step, ints_to_wire

OPTIONS = dict(max_new_tokens=9, min_new_tokens=9, do_sample=False)


@pytest.fixture(scope="module")
def toy():
    model, tok = lk.load("toy-llama")
    return model, tok("count me", return_tensors="pt")["input_ids"]


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
def test_ledger_equals_formula_and_socket(toy, policy):
    model, ids = toy
    prompt, new = ids.shape[1], 9
    with lk.host("toy-llama") as host:
        split = lk.split(model, body=host.address, cache=policy)
        with lk.tap(split) as wire:
            split.generate(ids, **OPTIONS)
        split.close()
    vectors = new * prompt + new * (new - 1) // 2 if policy == "none" else prompt + new - 1
    sums = wire.totals()
    assert (sums["tensor"] == vectors * 64 * 4).all() and (sums["payload"] == sums["tensor"]).all()
    assert wire.counters()["stream"] == tuple(sums["frame"])
    tcp = wire.counters().get("tcp")
    assert tcp is None or tcp == tuple(sums["frame"])


def test_loopback_frames_are_the_real_ones(toy):
    model, ids = toy
    rows = []
    with lk.host("toy-llama") as host:
        for body in ("loopback", host.address):
            split = lk.split(model, body=body, codec="int8:token")
            with lk.tap(split) as wire:
                split.generate(ids, **OPTIONS)
            ledger = wire.ledger()
            rows.append(
                ledger[ledger.kind == "step"][["direction", "shape", "payload", "frame"]].reset_index(drop=True)
            )
    assert rows[0].equals(rows[1])
    decode = rows[0][2:]
    assert ((decode.frame - decode.payload) <= 64).all()


def test_up_and_down_may_differ(toy):
    model, ids = toy
    split = lk.split(model, codec=("fp32", "int8:token"))
    with lk.tap(split) as wire:
        split.generate(ids, **OPTIONS)
    sums = wire.totals()
    assert sums.loc["down", "payload"] < sums.loc["up", "payload"] == sums.loc["up", "tensor"]


def test_capture_round_trip(toy, tmp_path):
    model, ids = toy
    split = lk.split(model, codec="int8:token", body="loopback")
    with lk.tap(split) as wire:
        split.generate(ids, **OPTIONS)
    path = wire.save(tmp_path / "run.lsplit", truth={"input_ids": ids})
    capture = lk.Capture.load(path)
    assert capture.ledger().equals(wire.ledger()) and capture.totals().equals(wire.totals())
    assert capture.tensors("up")[0].shape == (1, ids.shape[1], 64)
    assert capture.manifest["fingerprint"] == split.link.info.fingerprint
    assert (tmp_path / "run.lsplit.truth").exists()
    assert b"input_ids" not in path.read_bytes() and b"count me" not in path.read_bytes()


def test_damaged_captures_are_refused(tmp_path):
    for content in (b"", b"garbage" * 99):
        path = tmp_path / "bad.lsplit"
        path.write_bytes(content)
        with pytest.raises(CaptureError):
            lk.Capture.load(path)
    with pytest.raises(CaptureError):
        lk.Capture.load(tmp_path / "missing.lsplit")


def test_a_tap_that_never_listened_says_so(toy):
    wire = lk.tap(lk.split(toy[0]))
    assert "not listening" in repr(wire) and "0 bytes" not in repr(wire)
    with pytest.raises(CaptureError, match="never listened"):
        wire.counters()
    with wire:
        pass
    assert wire.totals().to_numpy().sum() == 0 and "not listening" not in repr(wire)


def test_a_lost_session_is_replayed_and_shown(toy):
    model, ids = toy
    split = lk.split(model, body="loopback")
    with torch.no_grad():
        cache = split(ids).past_key_values
        split.link.body.sessions.clear()
        with lk.tap(split) as wire:
            ours = split(ids[:, :1], past_key_values=cache).logits
        whole = model(torch.cat([ids, ids[:, :1]], dim=1)).logits[:, -1:]
    assert (ours - whole).abs().max() <= 2e-4
    assert "replay" in set(wire.ledger().kind)


def test_a_step_refused_on_its_way_down_leaves_a_session_that_can_be_replayed():
    """fp16 cannot hold what the body makes of huge values: the gathered rows must not stay gathered."""
    body = body_of(lk.load("toy-llama")[0], lk.SplitPlan(1, 1))
    width, fp32 = body.info.width, lk.codec("fp32")
    hidden = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0))
    swap = ints_to_wire([1, 0])

    def fresh():
        session = body.open(Open("kv", "fp32", "fp16"))
        body.step(session, Step(1, 0, 2, 2, fp32.encode(hidden[:, :2]).payload))
        return session

    last = fp32.encode(hidden[:, 2:]).payload
    expected = body.step(fresh(), Step(2, 2, 2, 1, last, rows=swap))
    session = fresh()
    with pytest.raises(NonFiniteError):
        body.step(session, Step(2, 2, 2, 1, fp32.encode(hidden[:, 2:] * 1e9).payload, rows=swap))
    with pytest.raises(CacheMiss):
        body.step(session, Step(3, 2, 2, 1, last, rows=swap))
    body.step(session, Step(4, 0, 2, 2, fp32.encode(hidden[:, :2]).payload))
    assert body.step(session, Step(5, 2, 2, 1, last, rows=swap)) == expected


@pytest.mark.parametrize("field", ["rows", "pads", "positions"])
def test_long_control_fields_are_refused_before_they_are_read(field, monkeypatch):
    body = body_of(lk.load("toy-llama")[0], lk.SplitPlan(1, 1))
    monkeypatch.setattr(sys.modules[type(body).__module__], "ints_from_wire", None)  # calling it would be the failure
    session = body.open(Open("kv", "fp32", "fp32"))
    with pytest.raises(FrameError, match=field):
        body.step(session, Step(1, 0, 1, 1, bytes(4 * body.info.width), **{field: bytes(1 << 20)}))
