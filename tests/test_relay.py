"""Somebody on the line: the bytes are all of them and nothing else, and every one of them has a name."""

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import AuthError, FrameError
from lsplit_kit.remote.dissect import HANDSHAKE, fields, frames
from lsplit_kit.remote.relay import Relay
from lsplit_kit.remote.token import token_path

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def heard():
    """(bytes up, bytes down, the tap, the link's counters, the relay's address) of one short reply."""
    model = lk.load("toy-llama")[0]
    with lk.host("toy-llama") as host, Relay(host.address) as line:
        lm = lk.split(model, body=line.address, codec="int8:token")
        with lk.tap(lm) as wire:
            lm.generate("count me", max_new_tokens=4, do_sample=False)
        counters = lm.link.counters()["stream"]
        lm.close()
        assert token_path("127.0.0.1", int(line.address.rpartition(":")[2])).exists()
    return line.up, line.down, wire, counters, line.address


def test_the_line_has_every_byte_and_no_other(heard):
    up, down, wire, counters, _ = heard
    assert (len(up), len(down)) == counters
    sums = wire.totals()["frame"]
    last = [raw[-sums[way] :] for way, raw in (("up", up), ("down", down))]
    for way, raw in zip(("up", "down"), last, strict=True):
        payloads = [c.data for c in wire.crossings if c.direction == way and c.data]
        assert payloads and all(payload in raw for payload in payloads)


def test_frames_are_those_of_the_ledger(heard):
    up, down, wire, _, _ = heard
    for way, raw in (("up", up), ("down", down)):
        found = frames(raw, way)
        assert sum(map(len, found)) + HANDSHAKE[way] == len(raw)
        sizes = [c.frame for c in wire.crossings if c.direction == way]
        assert [len(frame) for frame in found][1:] == sizes  # the first is hello, from before the tap


def test_every_byte_of_a_frame_has_a_name(heard):
    up, down, wire, _, _ = heard
    for way, raw in (("up", up), ("down", down)):
        for frame in frames(raw, way):
            table = fields(frame)
            ends = [start + many for start, many in zip(table.index, table["bytes"], strict=True)]
            assert [0, *ends] == [*table.index, len(frame)]
    step = fields(frames(up, "up")[2])
    words = list(step["field"])
    tokens = next(c.shape[1] for c in wire.crossings if c.kind == "step")
    for said in ("name: 'step'", "session: 1", "step_no: 1", "start: 0", "batch: 1", f"tokens: {tokens}",
                 f"payload: {wire.crossings[2].payload:,} bytes"):  # fmt: skip
        assert said in words
    assert "codec up: 'int8:token'" in list(fields(frames(up, "up")[1])["field"])
    assert "request" in words and "reply" in list(fields(frames(down, "down")[2])["field"])


def test_a_denoisers_step_has_its_own_fields():
    pipe = lk.load("toy-sd")
    with lk.host("toy-sd") as host, Relay(host.address) as line:
        split = lk.split(pipe, body=line.address)
        split("a red apple", num_inference_steps=1, height=64, width=64)
        split.close()
    words = [list(fields(frame)["field"]) for frame in frames(line.up, "up")]
    (step,) = [said for said in words if "name: 'step'" in said]
    assert any(said.startswith("form: ") for said in step) and any(said.startswith("payload: ") for said in step)


@pytest.mark.parametrize(
    "frame",
    [b"", b"\0\0\0\1\0\1\n", b"\0\0\0\2\0\2\x18\n", b"\0\0\0\3\0\2\x11\x51\n", b"\0\0\0\2\0\2\x51\x0b", b"\0" * 9],
)
def test_what_is_no_frame_is_a_sentence(frame):
    with pytest.raises(FrameError):
        fields(frame)


def test_a_cut_connection_is_a_sentence(heard):
    for raw in (heard[0][:-1], heard[0][:-1] + b"x"):
        with pytest.raises(FrameError, match="inside a frame"):
            frames(raw, "up")


def test_the_token_file_ends_with_the_block_and_strangers_get_none(heard):
    port = int(heard[4].rpartition(":")[2])
    assert not token_path("127.0.0.1", port).exists()
    with pytest.raises(AuthError, match="No token"):
        Relay("rpyc://127.0.0.1:1")
