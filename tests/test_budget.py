"""Where a reply's time goes, and which deployment is fastest where: sums, limits and the recorded model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.measure import LatencyModel, break_even, budget, fastest, latency_model, pricing, recorded, timed_reply
from lsplit_kit.measure.budget import DEPLOYMENTS, SPENT, Ticks, at_rate, timed_alone, watched
from lsplit_kit.wire.network import PRESETS, Network, network


@pytest.fixture(scope="module")
def model():
    return recorded()


@pytest.fixture(scope="module")
def toy():
    return lk.load("toy-llama")[0]


@pytest.mark.parametrize("name", PRESETS)
def test_the_parts_add_up_to_what_the_model_says(model, name):
    table = budget(model, 32, 16, name, local_speed=2, host_speed=10)
    said = model.deployments(32, 16, name, local_speed=2, host_speed=10)
    assert list(table.index) == list(DEPLOYMENTS) and (table >= 0).all().all()
    for column in ("first", "per_token", "total"):
        assert table[column].to_numpy() == pytest.approx(said[column].to_numpy())
    assert table[list(SPENT)].sum(axis=1).to_numpy() == pytest.approx(table["total"].to_numpy())


def test_a_rate_costs_bytes_and_a_round_trip_costs_waiting(model):
    slow, far = Network(1, 2), Network(None, None, 100)
    bytes_ = model.steps(32, 16)[["frame_up", "frame_down"]].sum()
    at_slow, at_far = budget(model, 32, 16, slow), budget(model, 32, 16, far)
    assert at_slow.loc["split", "up"] == pytest.approx(bytes_["frame_up"] * 8e-6)
    assert at_slow.loc["split", "down"] == pytest.approx(bytes_["frame_down"] * 4e-6)
    assert at_far.loc["split", "waiting"] == pytest.approx(0.1 * (16 + model.sessions))
    assert at_far.loc["cloud", "waiting"] == pytest.approx(0.1) and at_far.loc["split", "up"] == 0
    assert (at_far.loc["local", list(SPENT)[1:]] == 0).all()


@pytest.mark.parametrize("net", [*PRESETS.values(), Network(), replace(PRESETS["dsl"], loss=0.01)], ids=str)
def test_the_fast_price_is_the_slow_one(model, net):
    price = pricing(model, 40, 20, 1.5, 6.0)(net)
    said = model.deployments(40, 20, net, local_speed=1.5, host_speed=6.0)["total"]
    assert price == pytest.approx(said.to_dict())


def test_at_the_break_even_round_trip_split_and_local_take_equally_long(model):
    price, net = pricing(model, 32, 32, host_speed=10), network("5g")
    rtt = break_even(price, net)
    at = price(replace(net, rtt_ms=rtt))
    assert at["split"] == pytest.approx(at["local"])
    assert price(replace(net, rtt_ms=rtt - 1))["split"] < at["local"] < price(replace(net, rtt_ms=rtt + 1))["split"]
    assert break_even(price, network("nb-iot")) is None


def test_a_split_is_never_the_fastest_of_three(model):
    for local, host in ((1, 1), (1, 10), (10, 1), (3, 2)):
        names = fastest(pricing(model, 32, 16, local, host), network("5g"), (0.1, 10, 1000), (0.1, 10, 1000))
        assert not (names == "split").any().any(), (local, host)


def test_the_map_asks_only_those_named_and_keeps_the_ratio_of_rates(model):
    price = pricing(model, 32, 32, host_speed=10)
    names = fastest(price, network("5g"), (0.1, 1000), (1000,), ("local", "split"))
    assert names.to_numpy().tolist() == [["split", "local"]]
    assert at_rate(network("5g"), 5).down_mbps == 10 and at_rate(Network(), 5).down_mbps == 5


def test_the_recorded_model_says_where_and_when_and_is_small(model):
    assert "cores" in model.recorded and "head 2 / tail 2" in model.recorded and model.recorded in repr(model)
    assert model.width == 576 and model.payload == (2304, 2304)
    with pytest.raises(UnsupportedOption, match="recorded: smollm2"):
        recorded("gpt-9")


def test_a_codec_shrinks_the_frames_and_nothing_else(model):
    small = model.coded(576 + 8, 1152)
    before, after = model.steps(10, 3), small.steps(10, 3)
    header = before["frame_up"][1] - 2304
    assert after["frame_up"][1] - header == 584 and after["frame_up"][0] - header == pytest.approx(5840, abs=2)
    assert after["frame_down"][1] - (before["frame_down"][1] - 2304) == 1152
    assert (before["body"] == after["body"]).all() and small.payload == (584, 1152)
    with pytest.raises(UnsupportedOption, match="bytes above 0"):
        model.coded(0, 1)


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    path = tmp_path / "m.json"
    model.save(path)
    again = LatencyModel.load(path)
    assert again.deployments(9, 9, "4g").equals(model.deployments(9, 9, "4g")) and again.recorded == model.recorded


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x", "parts": {"head": [1]}, "frames": {}}'])
def test_another_file_is_one_sentence(text, tmp_path):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UnsupportedOption, match="holds no latency model"):
        LatencyModel.load(tmp_path / "m.json")


def test_a_fresh_model_knows_its_vectors_and_reports_its_rounds(toy):
    lm, seen = lk.split(toy, body="loopback", network="4g", codec="int8:token"), []
    found = latency_model(lm, prompts=(4, 8), new_tokens=3, repeats=1, report=lambda *at: seen.append(at))
    assert seen == [(0, 2), (1, 2)] and found.width == 64
    assert found.payload == (lk.codec("int8:token").payload_bytes((1, 1, 64)),) * 2
    assert found.coded(256, 256).steps(4, 2)["frame_up"][1] > found.steps(4, 2)["frame_up"][1]


def test_what_a_stopwatch_saw_is_told_as_the_model_tells_it(toy):
    lm = lk.split(toy, body="loopback", network="4g")
    ticks = Ticks(lambda: 0.0)
    watch = timed_reply(lm, torch.arange(1, 9)[None], 5, streamer=ticks)
    times = watched(watch)
    assert times.total == pytest.approx(watch.seconds) and len(times.each) == 4 and len(ticks.at) == 6


def test_alone_a_reply_is_timed_on_the_same_clock(toy):
    numbers, seen = iter(np.arange(100.0)), []
    times = timed_alone(toy, torch.arange(1, 9)[None], 3, lambda: float(next(numbers)), 2.0, seen.append)
    assert (times.first, list(times.each), times.end) == (1.0, [0.5, 0.5], 0.5) and seen == [0, 1, 2, 3]
