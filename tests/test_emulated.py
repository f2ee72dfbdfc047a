"""Emulated links: what their clocks say is arithmetic; what really waits is compared with the kernel's own shaper."""

import itertools
import time

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.split.body import body_of
from lsplit_kit.split.plan import SplitPlan
from lsplit_kit.wire.emulated import EmulatedLink
from lsplit_kit.wire.here import InProcess, Loopback
from lsplit_kit.wire.message import Open, Step
from lsplit_kit.wire.network import PRESETS, Network, network

TERMS = Open("kv", "fp32", "fp32")


@pytest.fixture(scope="module")
def model():
    return lk.load("toy-llama")[0]


@pytest.fixture
def inner(model):
    return Loopback(body_of(model, SplitPlan(1, 1)))


def step(link, number=1, start=0, tokens=1):
    return Step(number, start, 1, tokens, bytes(4 * link.info.width * tokens))


def test_a_step_takes_the_round_trip_and_its_frames_over_the_rates(inner):
    link = EmulatedLink(inner, up_mbps=2, down_mbps=8, rtt_ms=50)
    session, before = link.open(TERMS), link.now
    done = link.step(session, step(link))
    expected = 0.050 + done.frame_up * 8 / 2e6 + done.frame_down * 8 / 8e6
    assert link.now - before == pytest.approx(expected, abs=1e-12)


def test_opening_a_session_is_a_round_trip(inner):
    link = EmulatedLink(inner, rtt_ms=50)
    link.open(TERMS)
    assert link.now == pytest.approx(0.050)


def test_steps_under_way_share_one_round_trip_and_the_line(inner):
    link = EmulatedLink(inner, up_mbps=1, rtt_ms=80)
    session, before = link.open(TERMS), link.now
    for number in range(4):
        link.send(session, step(link, number + 1, number))
    frames = [link.receive(session).frame_up for _ in range(4)]
    assert link.now - before == pytest.approx(0.080 + sum(frames) * 8e-6, abs=1e-12)


def test_a_fast_answer_waits_behind_a_slow_one_under_way(inner):
    link = EmulatedLink(inner, down_mbps=0.1, rtt_ms=10)
    session, before = link.open(TERMS), link.now
    link.send(session, step(link, 1, 0, tokens=8))
    link.send(session, step(link, 2, 8, tokens=1))
    down = [link.receive(session).frame_down for _ in range(2)]
    assert link.now - before == pytest.approx(0.010 + sum(down) * 8e-5, abs=1e-12)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_deterministic_and_say_where_they_come_from(name, model):
    seen = []
    for _ in range(2):
        link = EmulatedLink(InProcess(body_of(model, SplitPlan(1, 1))), name, seed=3)
        session = link.open(TERMS)
        for number in range(5):
            link.step(session, step(link, number + 1, number))
        seen.append(link.now)
    assert seen[0] == seen[1] > 6 * PRESETS[name].rtt_ms / 1000 and PRESETS[name].source


def test_another_seed_is_another_jitter(model):
    links = [EmulatedLink(InProcess(body_of(model, SplitPlan(1, 1))), "4g", seed=seed) for seed in (1, 2)]
    assert len({(link.open(TERMS), link.now)[1] for link in links}) == 2


def test_jitter_has_its_mean_and_loss_its_share():
    line, _ = Network(jitter_ms=5).lines(0)
    delays = [line.carry(float(i), 100) - i for i in range(4000)]
    assert sum(delays) / len(delays) == pytest.approx(0.005, rel=0.05)
    line, _ = Network(loss=0.02).lines(0)
    late = [line.carry(10.0 * i, 100) - 10.0 * i > 0.19 for i in range(4000)]
    assert sum(late) / len(late) == pytest.approx(0.02, rel=0.3)


def test_frames_arrive_in_order():
    line, _ = Network(jitter_ms=50, loss=0.1).lines(0)
    arrivals = [line.carry(0.001 * i, 100) for i in range(500)]
    assert all(a <= b for a, b in itertools.pairwise(arrivals))


def compute(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_computing_counts_in_a_timed_block_only(inner):
    link = EmulatedLink(inner, rtt_ms=10)
    session = link.open(TERMS)
    before = link.now
    compute(0.02)
    link.step(session, step(link))
    assert link.now - before == pytest.approx(0.010)
    with link.timed() as run:
        compute(0.02)
        link.step(session, step(link, 2, 1))
    assert run.seconds > 0.030 and run.trips[0].local >= 0.02 and run.trips[0].host > 0


def test_a_faster_side_takes_less_of_the_clock(inner):
    link = EmulatedLink(inner)
    session = link.open(TERMS)
    with link.timed(local_speed=100) as run:
        compute(0.05)
        link.step(session, step(link))
    assert run.trips[0].local < 0.02


def test_tokens_and_bytes_are_those_of_the_link_inside(model):
    tok = lk.load("toy-llama")[1]
    ids = tok("to be or not", return_tensors="pt")
    plain, slow = (
        lk.split(model, head=1, tail=1, body="loopback"),
        lk.split(model, head=1, tail=1, body="loopback", network="satellite"),
    )
    outs, tables = [], []
    for lm in (plain, slow):
        with lk.tap(lm) as wire:
            outs.append(lm.generate(**ids, max_new_tokens=6, do_sample=False))
        tables.append(wire.ledger()[["direction", "kind", "payload", "frame"]])
        assert wire.counters()["stream"] == tuple(wire.totals()["frame"])
    assert torch.equal(*outs) and tables[0].equals(tables[1])
    assert slow.link.now > 6 * 0.6


def test_a_network_over_a_real_host(model):
    with lk.host("toy-llama", head=1, tail=1) as host:
        lm = lk.split(model, head=1, tail=1, body=host.address, network=Network(rtt_ms=30))
        lm.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=3, do_sample=False)
        assert 4 * 0.030 <= lm.link.now < 6 * 0.030
        lm.close()


def test_real_time_waits_as_the_virtual_clock_says(inner):
    slow = EmulatedLink(inner, up_mbps=20, down_mbps=20, rtt_ms=20, realtime=True)
    session = slow.open(TERMS)
    began = time.perf_counter()
    done = slow.step(session, step(slow))
    least = 0.020 + (done.frame_up + done.frame_down) * 8 / 20e6
    assert time.perf_counter() - began >= least - 1e-4  # how much more is for benchmarks/emulated_link.py to say


def test_real_time_pipelining_pays_the_round_trip_once(inner):
    link = EmulatedLink(inner, rtt_ms=200, realtime=True)
    session = link.open(TERMS)
    began = time.perf_counter()
    for number in range(5):
        link.send(session, step(link, number + 1, number))
    for _ in range(5):
        link.receive(session)
    assert 0.2 <= time.perf_counter() - began < 0.8  # five round trips would be a second


def test_a_denoiser_works_over_it():
    pipe = lk.split(lk.load("toy-sd"), at="denoiser", mode="lockstep", network="4g")
    whole = lk.load("toy-sd")
    ask = dict(num_inference_steps=2, output_type="np")
    one, two = (p("an apple", generator=torch.Generator().manual_seed(0), **ask).images for p in (pipe, whole))
    assert (one == two).all() and pipe.link.now > 0.07


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"preset": "warp"}, "Unknown network 'warp'; choose one of lan, wifi, 5g"),
        ({"up_mbps": 0}, "up_mbps takes a number above 0"),
        ({"rtt_ms": -1}, "rtt_ms takes a number of 0 or more"),
        ({"rtt_ms": float("nan")}, "rtt_ms"),
        ({"loss": 1.0}, "loss is a share"),
        ({"jitter_ms": "5"}, "jitter_ms"),
    ],
)
def test_bad_conditions_are_one_sentence(inner, given, said):
    with pytest.raises(UnsupportedOption, match=said):
        EmulatedLink(inner, **given)


def test_only_links_are_wrapped_and_only_virtual_clocks_are_scaled(inner, model):
    with pytest.raises(UnsupportedOption, match="wraps a link"):
        EmulatedLink("rpyc://127.0.0.1:1")
    with pytest.raises(UnsupportedOption, match="Unknown network"):
        lk.split(model, head=1, tail=1, network="warp")
    real = EmulatedLink(inner, realtime=True)
    with pytest.raises(UnsupportedOption, match="virtual clock"), real.timed(host_speed=2):
        pass
    with pytest.raises(UnsupportedOption, match="above 0"), EmulatedLink(inner).timed(local_speed=0):
        pass


def test_the_card_names_network_and_clock(inner):
    said = repr(EmulatedLink(inner, "4g"))
    assert "4g" in said and "12 Mbit/s up, 12 down, round trip 70 ms" in said and "virtual" in said
    assert str(network("lan", loss=0.5)).endswith("loss 50.00%")
