"""Local, cloud-only and split: the same tokens and pictures, and a clock that adds up the network to the last step."""

from __future__ import annotations

import math

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit.measure.deployment import WHERE, Outcome
from lsplit_kit.split.whole_client import WINDOW
from lsplit_kit.wire.network import Network

pytestmark = pytest.mark.timeout(120)
IDS = torch.tensor([[5, 9, 17, 40, 3]])
NO_TIME = dict(local_speed=1e12, host_speed=1e12)  # what is left on the clock is the network's arithmetic
LONG = Network(rtt_ms=100)
CUT = dict(head=1, tail=1)


@pytest.fixture(scope="module")
def model():
    return lk.load("toy-llama")[0]


@pytest.fixture(scope="module")
def pipe():
    return lk.load("toy-sd")


def run(model, where, *, options=None, prompt=IDS, **how):
    cut = CUT if where == "split" and prompt is IDS else {}
    with lk.deploy(model, where, **cut, **how) as deployed:
        return deployed.run(prompt, **{**({"max_new_tokens": 6} if deployed.kind == "text" else {}), **(options or {})})


@pytest.mark.parametrize("body", [None, "loopback"])
@pytest.mark.parametrize("options", [{}, dict(do_sample=True, seed=4, temperature=2.0, top_k=40)], ids=["greedy", "s"])
def test_all_three_give_the_unsplit_models_tokens(model, body, options):
    torch.manual_seed(options.get("seed", 0))
    asked = {"max_new_tokens": 6, "do_sample": False} | {k: v for k, v in options.items() if k != "seed"}
    expected = model.generate(IDS, **asked)[0, 5:].tolist()
    for where in WHERE:
        assert list(run(model, where, body=body, network="4g", options=options).ids) == expected, where


@pytest.mark.parametrize("how", [dict(mode="per_step"), dict(mode="lockstep"), dict(at="blocks", **CUT)])
def test_all_three_draw_the_unsplit_picture(pipe, how):
    asked = dict(num_inference_steps=2, guidance_scale=5.0, height=32, width=48)
    expected = pipe("an apple", generator=torch.Generator().manual_seed(3), **asked).images[0]
    table = lk.compare(pipe, "an apple", network="wifi", seed=3, **how, **asked)
    assert list(table.index) == list(WHERE)
    assert all(made.tobytes() == expected.tobytes() for made in table["result"])
    assert table["first"].isna().all() and (table["each"] == table["seconds"] / 2).all()


def test_the_callers_random_numbers_and_objects_are_left_alone(model, pipe):
    torch.manual_seed(5)
    before, config = torch.get_rng_state(), dict(getattr(pipe, "_progress_bar_config", {}))
    for where in WHERE:
        run(model, where, options=dict(do_sample=True, seed=1))
    lk.compare(pipe, "an apple", num_inference_steps=2, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert not hasattr(model, "remote") and pipe._progress_bar_config == config


def test_the_cloud_pays_one_round_trip_and_a_split_one_a_token(model):
    cloud, split = (run(model, where, network=LONG, **NO_TIME) for where in ("cloud", "split"))
    for made in (cloud, split):  # opening the session, and the first step
        assert made.first == pytest.approx(0.2, abs=1e-6)
    assert cloud.each == pytest.approx(0, abs=1e-6) and cloud.seconds == pytest.approx(0.2, abs=1e-6)
    assert split.each == pytest.approx(0.1, abs=1e-6) and split.seconds == pytest.approx(0.7, abs=1e-6)
    assert run(model, "local", network=LONG, **NO_TIME).seconds < 1e-6


def test_a_reply_longer_than_the_window_waits_once_more(model):
    endless, _ = lk.load("toy-llama")
    endless.generation_config.eos_token_id = None
    made = run(endless, "cloud", network=LONG, options={"max_new_tokens": WINDOW + 20}, **NO_TIME)
    assert len(made.ids) == WINDOW + 20 and made.seconds == pytest.approx(0.3, abs=1e-6)


def test_a_picture_is_there_before_its_session_is_closed(pipe):
    for where, trips in (("cloud", 2), ("split", 4)):  # opening, and one, or three calls of the denoiser
        with lk.deploy(pipe, where, network=LONG, **NO_TIME) as deployed:
            made = deployed.run("an apple", num_inference_steps=3, seed=1)
        assert made.seconds == pytest.approx(0.1 * trips, abs=1e-6), where


@pytest.mark.parametrize("where", ["cloud", "split"])
def test_a_second_run_costs_what_the_first_did(model, where):
    with lk.deploy(model, where, network=LONG, **NO_TIME) as deployed:
        first, second = (deployed.run(IDS, max_new_tokens=4).seconds for _ in range(2))
    assert first == pytest.approx(second, abs=1e-6)


def test_computing_counts_by_the_speed_of_its_side(model):
    free = run(model, "split", local_speed=1e12, host_speed=1)
    assert sum(t.local for t in free.trips) < 1e-6 < sum(t.host for t in free.trips)
    assert free.seconds == pytest.approx(sum(t.host for t in free.trips), abs=1e-6)
    alone = run(model, "local", local_speed=1e12)
    assert 0 < alone.seconds < 1e-6


def test_a_run_keeps_what_another_network_would_need(model, pipe):
    made = run(model, "split", network=LONG, local_speed=1e12, host_speed=1)
    way = sum(trip.up + trip.queue + trip.host + trip.down for trip in made.trips)
    assert made.seconds == pytest.approx(0.1 + way, abs=1e-6) and len(made.after) == len(made.ids)
    made = run(model, "split", network=LONG)
    assert made.before > 0 and min(made.after) > 0 and made.before + made.after[-1] < made.seconds - 0.7
    made = run(pipe, "split", prompt="an apple", options=dict(num_inference_steps=1))
    assert made.before > 0 and len(made.after) == 1 and made.after[0] > 0


@pytest.mark.parametrize("where", ["cloud", "split"])
def test_bytes_are_those_of_the_link_less_what_is_no_step(model, where):
    noted = [(0, 0)]
    with lk.deploy(model, where, body="loopback") as deployed:
        deployed.link.on_control = lambda kind, up, down: noted.append((up, down))
        made = deployed.run(IDS, max_new_tokens=5)
        counted = deployed.link.counters()["stream"]
    control = [sum(side) for side in zip(*noted, strict=True)]
    assert (made.bytes_up + control[0], made.bytes_down + control[1]) == counted
    assert made.bytes_down > (5 * 4 if where == "cloud" else 9 * 4 * model.config.hidden_size)


def test_an_early_end_stops_all_three(model):
    stopping, _ = lk.load("toy-llama")
    stopping.generation_config.eos_token_id = run(model, "local").ids[2]
    ended = [run(stopping, where, options={"max_new_tokens": 40}).ids for where in WHERE]
    assert ended[0] == ended[1] == ended[2] == run(model, "local").ids[:3]


def test_one_token_has_no_time_per_later_token(model):
    made = run(model, "cloud", options={"max_new_tokens": 1})
    assert math.isnan(made.each) and made.seconds == made.first


def test_real_hosts_serve_both_and_the_cloud_needs_no_weights(model):
    prompt, options = "Hello", {"max_new_tokens": 5}
    with lk.host("toy-llama", whole=True) as whole, lk.host("toy-llama") as body:
        at = {"cloud": whole.address, "split": body.address}
        table = lk.compare(model, prompt, body=at, network="lan", **options)
        with lk.deploy("toy-llama", "cloud", body=whole.address) as deployed:
            assert "toy-llama, cloud" in repr(deployed)
            assert deployed.run(prompt, **options).reply == table.loc["local", "result"]
        wrong = lk.deploy("toy-llama", "cloud", body=body.address)
        with wrong, pytest.raises(e.UnsupportedModel, match="lsplit host --whole"):
            wrong.run(prompt)
    assert table["result"].nunique() == 1 and table.loc["local", "bytes_up"] == 0


def test_the_words_say_what_the_host_has_seen(model, pipe):
    said = lk.compare(model, IDS, max_new_tokens=2, **CUT)["seen"]
    assert list(said) == ["nothing", "token ids of prompt and reply", "hidden vectors"]
    said = lk.compare(pipe, "an apple", num_inference_steps=1)["seen"]
    assert list(said) == ["nothing", "the text and the picture", "text embeddings, latents and noise"]


def test_the_card_of_a_run_says_that_its_times_are_emulated(model):
    said = repr(run(model, "split", network="4g", host_speed=10, prompt="Hello"))
    for words in ("split", "emulated", "reply", "first token", "round trip 70 ms", "host 10 x", "hidden vectors"):
        assert words in said
    assert "host" not in repr(run(model, "local")).split("speeds")[1]
    assert isinstance(run(model, "cloud"), Outcome)


def deploying(*args, **how):
    return lambda model, pipe: lk.deploy(model, *args, **how)


def running(where="local", prompt=IDS, **options):
    return lambda model, pipe: lk.deploy(model, where).run(prompt, **options)


BAD = {
    "another place": (deploying("moon"), e.UnsupportedOption, "where takes local, cloud, split"),
    "no speed": (deploying("local", local_speed=0), e.UnsupportedOption, "local_speed takes a number above 0"),
    "true speed": (deploying("cloud", host_speed=True), e.UnsupportedOption, "host_speed"),
    "no network": (deploying("split", network="warp"), e.UnsupportedOption, "Unknown network 'warp'"),
    "no address": (deploying("cloud", body="there"), e.UnsupportedOption, "no address"),
    "misspelt": (deploying("local", haed=1), e.UnsupportedOption, "Unknown option 'haed'"),
    "no model": (lambda m, p: lk.deploy(3, "local"), e.UnsupportedModel, "got int"),
    "split already": (lambda m, p: lk.deploy(lk.split(m), "cloud"), e.UnsupportedModel, "split already"),
    "no body": (lambda m, p: lk.deploy(lk.load_local("toy-llama"), "cloud"), e.UnsupportedModel, "without its body"),
    "too many prompts": (running(prompt=IDS.repeat(2, 1)), e.UnsupportedOption, "one prompt at a time"),
    "flat ids": (running(prompt=IDS[0]), e.UnsupportedOption, "token ids"),
    "a number": (running(prompt=5), e.UnsupportedOption, "got int"),
    "beams, local": (running(num_beams=2), e.UnsupportedOption, "Unknown option 'num_beams'"),
    "beams, cloud": (running("cloud", num_beams=2), e.UnsupportedOption, "Unknown option 'num_beams'"),
    "a long reply": (running("split", max_new_tokens=10**6), e.LimitExceeded, "4096"),
    "no text for a picture": (lambda m, p: lk.deploy(p, "local").run(IDS), e.UnsupportedOption, "is a text"),
    "a picture's tokens": (lambda m, p: lk.deploy(p, "split").run("a", max_new_tokens=2), e.UnsupportedOption, "max_n"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_sentence(name, model, pipe):
    act, error, words = BAD[name]
    with pytest.raises(error, match=words):
        act(model, pipe)
