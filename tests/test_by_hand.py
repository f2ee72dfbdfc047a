"""The helpers of tutorial 05: servers to break stay on this machine and end; a rule of one's own rules a pool."""

import random

import pytest
import torch

from lsplit_kit.course.by_hand import Child, Line, OwnRule
from lsplit_kit.course.ex_05_memory import forgotten
from lsplit_kit.models.partial import load_body
from lsplit_kit.split.pool import Pool
from lsplit_kit.wire.message import Open, Step

SERVER = """
import rpyc
from rpyc.utils.server import ThreadedServer

server = ThreadedServer(rpyc.Service, hostname={!r}, port=0)
"""
pytestmark = pytest.mark.timeout(60)


def test_a_server_to_break_ends_with_its_block_and_when_its_pipe_ends():
    with Child(SERVER.format("127.0.0.1")) as child:
        assert child.running and "running" in repr(child)
    assert not child.running
    other = Child(SERVER.format("127.0.0.1"))
    other._process.stdin.close()  # what the child sees when this process is gone
    assert other._process.wait(10) == 0
    other.close()


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (SERVER.format("0.0.0.0"), "listens on 127.0.0.1 and nowhere else"),
        ("x = 1 +", "SyntaxError"),
        ("x = 1", "KeyError: 'server'"),
    ],
)
def test_a_server_that_does_not_start_says_why(source, why):
    with pytest.raises(ValueError, match=why):
        Child(source)


def test_a_server_that_is_gone_answers_nothing():
    with Child(SERVER.format("127.0.0.1")) as child, Line(child.port) as line:
        child.close()
        assert line.ask(b"\0\0\0\2\0\1\x51\n") == b""


@pytest.mark.parametrize(("limit", "quota"), [(200_000, 500_000), (500_000, 140_000), (200_000, 140_000)])
def test_the_rule_that_the_check_asks_for_is_the_pools(limit, quota):
    toy, held = load_body("toy-llama", 2, 2), []
    for pool in (Pool(limit, quota), OwnRule(forgotten, limit, quota)):
        draw, toy.pool = random.Random(limit + quota), pool
        bodies = {name: toy.fork() for name in ("ada", "bob", "cyd")}
        now = []
        for _ in range(25):
            name, positions = draw.choice(list(bodies)), draw.choice((10, 70, 130))
            bodies[name].owner = name
            session = bodies[name].open(Open("kv", "fp32", "fp32"))
            bodies[name].step(session, Step(1, 0, 1, positions, torch.zeros(1, positions, 64).numpy().tobytes()))
            now.append([each[:3] for each in pool.held() if each[2]])
        held.append(now)
        assert pool.evictions > 5
    assert held[0] == held[1]
