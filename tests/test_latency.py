"""The latency model: arithmetic on measured parts. What it predicts is compared with runs in benchmarks/, not here."""

import numpy as np
import pandas as pd
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import UnsupportedModel, UnsupportedOption
from lsplit_kit.measure import Stopwatch, latency_model, timed_reply
from lsplit_kit.measure.latency import features, fit
from lsplit_kit.measure.stopwatch import HOST, LOCAL, PARTS
from lsplit_kit.wire.network import Network

NET = Network(up_mbps=8, down_mbps=16, rtt_ms=50)
TRUE = {"loop": (2e-3, 0, 0, 0), "head": (1e-3, 4e-4, 1e-6, 0), "codec": (1e-4, 1e-6, 0, 0),
        "tail": (2e-3, 1e-4, 2e-6, 0), "host_codec": (5e-5, 0, 0, 0), "body": (2e-2, 3e-3, 4e-6, 0)}  # fmt: skip
FRAMES = {"up": (34, 580, 0, 0), "down": (16, 580, 0, 0)}


def table(prompt, new_tokens):
    tokens, past = [prompt, *[1] * (new_tokens - 1)], [0, *range(prompt, prompt + new_tokens - 1)]
    x = features(np.array(tokens), np.array(past))
    made = pd.DataFrame({"tokens": tokens, "past": past, **{p: x @ np.array(c) for p, c in TRUE.items()}})
    made[["frame_up", "frame_down"]] = np.stack([x @ np.array(FRAMES[w]) for w in ("up", "down")], axis=1)
    made[["up", "down", "queue"]] = 0.0
    made.attrs |= {"end": 0.004, "control": 0.05 + 40 * 8e-6 / 8 + 40 * 8e-6 / 16}
    return made


@pytest.fixture(scope="module")
def model():
    return fit("made up", [table(p, 8) for p in (8, 32, 128)], NET)


@pytest.fixture(scope="module")
def lm():
    return lk.split(lk.load("toy-llama")[0], head=1, tail=1, body="loopback", network=NET)


def test_fitting_finds_the_parts_it_was_given(model):
    steps = model.steps(300, 20)
    x = features(steps["tokens"], steps["past"])
    for part, coefficients in TRUE.items():
        assert steps[part].to_numpy() == pytest.approx(x @ np.array(coefficients), rel=1e-3), part
    assert list(steps["frame_up"][:2]) == [34 + 580 * 300, 614] and model.sessions == 1


def test_a_late_run_among_three_changes_nothing(model):
    late = table(32, 8) * 5
    late[["tokens", "past"]] = table(32, 8)[["tokens", "past"]]
    late.attrs = table(32, 8).attrs
    again = fit("", [table(8, 8), table(128, 8), table(32, 8), late, table(32, 8)], NET)
    assert again.split(64, 8, NET).total == pytest.approx(model.split(64, 8, NET).total, rel=1e-6)


def test_a_step_is_the_sum_of_its_parts_and_the_wire(model):
    times, steps = model.split(16, 4, NET), model.steps(16, 4, NET)
    assert times.each == pytest.approx(steps[[*LOCAL, *HOST, "up", "down"]].sum(axis=1)[1:])
    assert steps["up"][1] == pytest.approx(0.025 + 614 * 1e-6) and steps["down"][1] == pytest.approx(0.025 + 596 * 5e-7)
    assert times.first == pytest.approx(steps[[*LOCAL, *HOST, "up", "down"]].sum(axis=1)[0] + 0.05 + 40 * 1.5e-6)
    assert times.total == pytest.approx(times.first + sum(times.each) + 0.004)


def test_three_deployments_and_their_limits(model):
    free = model.deployments(16, 8, None)
    assert free.loc["local", "total"] == pytest.approx(free.loc["cloud", "total"])
    assert free.loc["split", "total"] > free.loc["local", "total"]  # a codec more, and nothing gained
    fast = model.deployments(16, 8, "lan", host_speed=50)
    assert fast.loc["cloud", "total"] < fast.loc["split", "total"] < fast.loc["local", "total"]
    slow = model.deployments(16, 8, "satellite", host_speed=50)
    assert slow.loc["split", "total"] > slow.loc["local", "total"]


def test_a_cloud_pays_one_round_trip_and_a_split_one_for_every_token(model):
    near, far = (model.deployments(16, 8, Network(rtt_ms=ms)) for ms in (0, 100))
    grown = far["total"] - near["total"]
    assert grown["local"] == 0 and grown["cloud"] == pytest.approx(0.1) and grown["split"] == pytest.approx(0.9)


def test_a_stopwatch_accounts_for_the_whole_clock(lm):
    watch = timed_reply(lm, torch.arange(1, 13)[None], 5)
    steps = watch.table()
    assert list(steps["tokens"]) == [12, 1, 1, 1, 1] and list(steps["past"]) == [0, 12, 13, 14, 15]
    parts = steps[list(PARTS)]
    assert (parts >= 0).all().all() and (steps[["head", "body", "tail"]] > 0).all().all()
    assert steps.attrs["control"] >= 0.049  # opening a session is a round trip
    whole = parts.to_numpy().sum() + steps.attrs["end"] + steps.attrs["control"]
    assert whole == pytest.approx(watch.seconds)


def test_after_the_stopwatch_the_model_is_as_before(lm):
    before = set(vars(lm.remote)), set(vars(lm.link))
    with pytest.raises(KeyboardInterrupt), Stopwatch(lm):
        raise KeyboardInterrupt
    assert (set(vars(lm.remote)), set(vars(lm.link))) == before and not lm._forward_hooks


def test_a_real_model_is_measured_in_a_few_steps(lm):
    found = latency_model(lm, prompts=(4, 16), new_tokens=3, repeats=1)
    assert found.name == "toy-llama" and found.split(20, 5, "4g").total > 5 * 0.07
    assert "bytes up" in repr(found)


def test_a_pipeline_is_measured_as_well():
    pipe = lk.split(lk.load("toy-sd"), body="loopback", mode="lockstep", network=NET)
    found = latency_model(pipe, new_tokens=3, repeats=1)
    assert found.split(1, 4, NET).each[0] > 0.05


@pytest.mark.parametrize("given", [{"prompt": 0, "new_tokens": 1}, {"prompt": 2, "new_tokens": True}])
def test_bad_lengths_are_one_sentence(model, given):
    with pytest.raises(UnsupportedOption, match="whole number above 0"):
        model.steps(**given)


def test_a_stopwatch_needs_a_clock():
    with pytest.raises(UnsupportedModel, match="network="):
        Stopwatch(lk.split(lk.load("toy-llama")[0], head=1, tail=1))
