"""What is counted and what is kept: ledger, socket, capture."""

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import CaptureError

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
