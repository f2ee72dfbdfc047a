"""Several steps under way on one link: in order, counted to the byte, and no deadlock when both ways are full."""

import os
import signal

import numpy as np
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import CacheMiss, HostUnavailable, SessionUnknown
from lsplit_kit.quantization import codec
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.split.body import body_of
from lsplit_kit.split.plan import SplitPlan
from lsplit_kit.wire.here import InProcess, Loopback
from lsplit_kit.wire.message import Open, Step

TERMS = Open("kv", "fp32", "fp32")


@pytest.fixture(scope="module")
def model():
    return lk.load("toy-llama")[0]


@pytest.fixture(scope="module")
def host():
    with lk.host("toy-llama", head=1, tail=1) as running:
        yield running


@pytest.fixture(params=["in process", "loopback", "rpyc"])
def link(request, model, host):
    if request.param == "rpyc":
        made = RpycLink(host.address)
    else:
        made = (InProcess if request.param == "in process" else Loopback)(body_of(model, SplitPlan(1, 1)))
    yield made
    made.close()


def chunks(link, count, tokens):
    fp32 = codec("fp32")
    hidden = torch.randn(1, count * tokens, link.info.width, generator=torch.Generator().manual_seed(0))
    return [
        Step(i + 1, i * tokens, 1, tokens, fp32.encode(hidden[:, i * tokens : (i + 1) * tokens]).payload)
        for i in range(count)
    ]


def test_answers_are_those_of_one_step_at_a_time(link):
    steps, one = chunks(link, 4, 3), link.open(TERMS)
    expected = [link.step(one, step).payload for step in steps]
    two = link.open(TERMS)
    for step in steps:
        link.send(two, step)
    assert [link.receive(two).payload for _ in steps] == expected


def test_the_books_hold_every_byte(link):
    noted = []
    link.on_control = lambda kind, up, down: noted.append((kind, up, down))
    before = link.counters().get("stream", (0, 0))
    session, exchanged = link.open(TERMS), []
    for step in chunks(link, 3, 2):
        link.send(session, step)
    exchanged.append(link.receive(session))
    exchanged.append(link.step(session, Step(9, 0, 1, 1, bytes(4 * link.info.width))))  # two answers are dropped
    spoken = "dropped" if link.counters() else None
    assert [kind for kind, *_ in noted].count("dropped") == (2 if spoken else 0)
    after = link.counters().get("stream", (0, 0))
    sums = [sum(up for _, up, _ in noted), sum(down for *_, down in noted)]
    sums = [sums[0] + sum(e.frame_up for e in exchanged), sums[1] + sum(e.frame_down for e in exchanged)]
    assert sums == [after[0] - before[0], after[1] - before[1]]


def test_an_error_under_way_is_raised_where_its_answer_is_read(link):
    session, (good, *_, late) = link.open(TERMS), chunks(link, 4, 2)
    link.send(session, good)
    link.send(session, late)  # begins at 6, where the host has 2
    link.send(session, Step(9, 2, 1, 2, good.payload))
    assert len(link.receive(session).payload) == len(good.payload)
    with pytest.raises(CacheMiss):
        link.receive(session)
    assert len(link.receive(session).payload) == len(good.payload)
    with pytest.raises(SessionUnknown, match="No step is under way"):
        link.receive(session)


def test_both_directions_may_be_full(host):
    with RpycLink(host.address, timeout=60) as link:  # 12 x 2.4 MB: more than the sockets of both sides hold
        tokens = 120
        wide = int(2.4e6 / (4 * link.info.width * tokens))
        payload = np.zeros(wide * tokens * link.info.width, "<f4").tobytes()
        session = link.open(TERMS)
        for number in range(12):
            link.send(session, Step(number + 1, 0, wide, tokens, payload))
        for _ in range(12):
            assert len(link.receive(session).payload) == len(payload)


def test_a_host_that_ends_under_way_is_a_lost_connection():
    with lk.host("toy-llama", head=1, tail=1) as running, RpycLink(running.address) as link:
        noted = []
        session = link.open(TERMS)
        link.on_control = lambda kind, up, down: noted.append((kind, up, down))
        before = link.counters()["stream"]
        os.kill(running.pid, signal.SIGSTOP)
        for step in chunks(link, 2, 2):
            link.send(session, step)
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(HostUnavailable):
            link.receive(session)
        with pytest.raises(SessionUnknown):
            link.receive(session)
        up, down = link.counters()["stream"]
        assert noted == [("lost", up - before[0], down - before[1])] and link.epoch == 1


def test_timings_are_told_once_and_one_for_a_step(link):
    link.timings()
    session = link.open(TERMS)
    for step in chunks(link, 3, 2):
        link.send(session, step)
    for _ in range(3):
        link.receive(session)
    spent = link.timings()
    assert len(spent) == 3 and all(
        waiting >= 0 and coding >= 0 and computing > 0 for waiting, coding, computing in spent
    )
    assert link.timings() == []
