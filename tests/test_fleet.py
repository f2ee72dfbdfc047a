"""Several hosts as one link: when it moves, where it stays, what it says, and what each host has seen."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import warnings

import pytest
import torch
from transformers import StoppingCriteria

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit.models.partial import load_body
from lsplit_kit.models.whole import load_whole
from lsplit_kit.remote import server
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.fleet import Fleet
from lsplit_kit.remote.server import RETRY_SECONDS, StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.remote.token import write_token
from lsplit_kit.wire import patience
from lsplit_kit.wire.message import Open

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(120)
PROMPT = torch.tensor([[5, 9, 17, 40, 3]])
MOVES = "going on at"
TERMS = Open("kv", "fp32", "fp32")


class Serving:
    """A real socket and protocol over a body in this process, which can end and come back at its port."""

    token = bytes(range(32))

    def __init__(self, body, **options):
        self.body, self.port, self.options = body, 0, options
        self.start()

    def start(self):
        self.server = StrictServer(service_of(self.body), self.token, "127.0.0.1", self.port, **self.options)
        self.port, self.address = self.server.port, self.server.address
        self.file = write_token("127.0.0.1", self.port, self.token)
        self.server.listener.listen(8)
        self.thread = threading.Thread(target=self.server.start, daemon=True)
        self.thread.start()
        while not self.server.active:  # a server that is closed before it listens complains
            time.sleep(0.001)

    def stop(self):
        self.server.close()
        self.thread.join(10)
        self.file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def model():
    return lk.load("toy-llama")[0]


@pytest.fixture
def two(body):
    yield from serving(body, 2)


@pytest.fixture
def three(body):
    yield from serving(body, 3)


@pytest.fixture(scope="module")
def body():
    return load_body("toy-llama", 2, 2)


def serving(body, count):
    hosts = [Serving(body) for _ in range(count)]
    yield hosts
    for host in hosts:
        host.stop()


def cut(model, hosts, **options):
    return lk.split(model, head=2, tail=2, body=[host.address for host in hosts], **{"timeout": 5, **options})


def generate(model, count=12, **options):
    return model.generate(PROMPT, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=[], **options)


class At(StoppingCriteria):
    """Does something after so many tokens of a reply."""

    def __init__(self, **what):
        self.what, self.tokens = {int(name[1:]): do for name, do in what.items()}, 0

    def __call__(self, input_ids, scores, **options):
        self.tokens += 1
        self.what.get(self.tokens, lambda: None)()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def kinds(wire):
    return [kind for kind in dict.fromkeys(c.kind for c in wire.crossings)]


# -- moving, and staying ---------------------------------------------------------------------------


def test_the_session_goes_on_at_the_next_host_and_the_tap_tells(model, two, tmp_path):
    split = cut(model, two)
    with lk.tap(split) as wire, pytest.warns(UserWarning, match=f"{two[0].address}.*{MOVES} {two[1].address}"):
        got = generate(split, stopping_criteria=[At(_4=two[0].stop)])
    assert torch.equal(got, generate(model))
    rows = wire.ledger()
    assert set(rows[rows.kind == "moved"].name) == {"to host 2"} and rows[rows.kind == "moved"].frame.sum() == 0
    replayed = rows[(rows.kind == "replay") & (rows.direction == "up")]
    assert [tuple(shape) for shape in replayed["shape"]] == [(1, PROMPT.shape[1] + 4, 64)]  # the second saw all of it
    assert wire.counters()["stream"] == tuple(wire.totals()["frame"])
    again = lk.Capture.load(wire.save(tmp_path / "a.lsplit"))
    for card in (repr(wire), repr(again)):
        assert "2 hosts saw these crossings" in card
    assert f"{two[1].address}, host 2 of 2" in repr(split)
    assert f"{two[1].address}: in use" in repr(split.link) and "Connection refused" in repr(split.link)
    split.close()


def test_over_an_emulated_network_too(model, two):
    split = cut(model, two, network="dsl")
    with lk.tap(split) as wire, pytest.warns(UserWarning, match=MOVES):
        assert torch.equal(generate(split, stopping_criteria=[At(_4=two[0].stop)]), generate(model))
    split.close()
    assert wire.hosts == {1, 2} and f"{two[1].address}, host 2 of 2" in repr(split)
    assert len(wire.clock) == len(wire.crossings) and wire.clock == sorted(wire.clock)


def test_one_host_saw_it_where_nothing_moved(model, two):
    split = cut(model, two)
    with lk.tap(split) as wire:
        generate(split, 2)
    split.close()
    assert wire.hosts == {1} and "hosts" not in repr(wire) and "moved" not in kinds(wire)


def test_it_stays_until_the_host_in_use_is_lost_and_then_comes_back(model, two):
    split = cut(model, two)
    want = generate(model)
    two[0].stop()
    with pytest.warns(UserWarning, match=MOVES):
        assert torch.equal(generate(split), want)
    two[0].start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the first is there again, and nobody moves to it
        assert torch.equal(generate(split), want) and split.link.host == 2
    two[1].stop()
    with pytest.warns(UserWarning, match=f"{MOVES} {two[0].address}"):
        assert torch.equal(generate(split), want) and split.link.host == 1
    split.close()


def test_a_connection_that_breaks_once_is_made_again_at_the_same_host(model, two):
    split = cut(model, two)

    def cut_off():
        for sock in list(two[0].server.clients):
            sock.shutdown(socket.SHUT_RDWR)

    with lk.tap(split) as wire:
        assert torch.equal(generate(split, stopping_criteria=[At(_4=cut_off)]), generate(model))
    assert wire.hosts == {1} and "replay" in kinds(wire) and split.link.host == 1
    split.close()


class Breaking:
    """A body whose host ends the connection at every step."""

    def __init__(self, body, host):
        self.body, self.host = body, host

    def __getattr__(self, name):
        return getattr(self.body, name)

    def fork(self):
        return Breaking(self.body.fork(), self.host)

    def work(self, number, step):
        for sock in list(self.host().server.clients):
            sock.shutdown(socket.SHUT_RDWR)
        return (yield from self.body.work(number, step))


def test_a_host_that_breaks_off_again_and_again_is_left(model, body, two):
    bad = Serving(Breaking(body, lambda: bad))
    split = cut(model, [bad, two[0]])
    with pytest.warns(UserWarning, match=f"{MOVES} {two[0].address}"):
        assert torch.equal(generate(split), generate(model))
    split.close()
    bad.stop()


def test_two_threads_keep_their_sessions_apart(model, two):
    split, found = cut(model, two), {}
    prompts = {n: PROMPT + n for n in range(3)}
    options = dict(max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=[])
    want = {n: model.generate(ids, **options) for n, ids in prompts.items()}
    strike = threading.Lock()

    def stop_once():
        if strike.acquire(blocking=False):
            two[0].stop()

    def run(n):
        found[n] = split.generate(prompts[n], stopping_criteria=[At(_4=stop_once)], **options)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [threading.Thread(target=run, args=(n,)) for n in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    split.close()
    assert {n: ids.tolist() for n, ids in found.items()} == {n: ids.tolist() for n, ids in want.items()}


def test_numbers_of_sessions_are_never_used_twice(two):
    with Fleet([host.address for host in two]) as link:
        first, epoch = link.open(TERMS), link.epoch
        two[0].stop()
        with pytest.warns(UserWarning, match=MOVES):
            assert link.open(TERMS) != first and link.epoch != epoch
        with pytest.raises(e.SessionUnknown):
            link.step(first, None)
        link.close_session(first)
        assert link.timings() == []


# -- what is refused, and what is said -------------------------------------------------------------


def test_a_host_that_cannot_be_reached_is_said_and_used_when_it_is_there(model, two):
    two[1].stop()
    with pytest.warns(UserWarning, match=f"Only 1 of 2 hosts answer: .*{two[1].address}"):
        split = cut(model, two)
    two[1].start()
    two[0].stop()
    with pytest.warns(UserWarning, match=MOVES):
        assert torch.equal(generate(split), generate(model))
    split.close()


def test_other_weights_are_refused_at_once_where_the_host_can_be_reached(model, two):
    other = Serving(load_body("toy-mistral", 2, 2))
    with pytest.raises(e.FingerprintMismatch) as caught:
        cut(model, [two[0], other])
    assert other.address in str(caught.value) and "toy-mistral" in str(caught.value)
    other.stop()


def test_other_weights_are_passed_over_and_refused_when_nobody_else_is_left(model, three):
    first, other, third = three
    other.stop()
    with pytest.warns(UserWarning, match="Only 2 of 3"):
        split = cut(model, three)
    other.body = load_body("toy-mistral", 2, 2)
    other.start()
    first.stop()
    with pytest.warns(UserWarning, match=f"{MOVES} {third.address}"):
        assert torch.equal(generate(split), generate(model))
    third.stop()
    with pytest.raises(e.FingerprintMismatch) as caught:
        generate(split)
    for host in three:
        assert host.address in str(caught.value)
    split.close()


def test_hosts_that_hold_different_things_are_no_fleet_where_nobody_says_what_it_should_be(two):
    other = Serving(load_body("toy-mistral", 2, 2))
    with pytest.raises(e.FingerprintMismatch) as caught:
        Fleet([two[0].address, other.address])
    assert two[0].address in str(caught.value) and other.address in str(caught.value)
    other.stop()


def test_a_wrong_host_does_not_become_the_measure_of_the_others(three):
    wrong, second, third = three
    wrong.stop()
    with pytest.warns(UserWarning, match="Only 2 of 3"):
        link = Fleet([host.address for host in three])
    wrong.body = load_body("toy-mistral", 2, 2)
    wrong.start()
    link.open(TERMS)
    second.stop()
    with pytest.warns(UserWarning, match=MOVES):
        link.open(TERMS)  # at the third
    third.stop()
    with pytest.raises(e.FingerprintMismatch):  # the first is greeted, and refused
        link.open(TERMS)
    second.start()
    with pytest.warns(UserWarning, match=f"{MOVES} {second.address}"):
        link.open(TERMS)
    link.close()


def test_when_all_are_lost_one_sentence_names_each(model, two, monkeypatch):
    monkeypatch.setattr(patience, "RETURN_SECONDS", 0)  # nobody comes back
    split = cut(model, two)
    for host in two:
        host.stop()
    with pytest.raises(e.HostUnavailable) as caught:
        generate(split)
    assert type(caught.value) is e.HostUnavailable
    for host in two:
        assert f"No host answers at {host.address}" in str(caught.value)
    two[1].start()
    with pytest.warns(UserWarning, match=MOVES):
        assert torch.equal(generate(split), generate(model))
    split.close()
    with pytest.raises(e.HostUnavailable, match="closed"):
        generate(split)


def test_no_host_at_all(model, two):
    for host in two:
        host.stop()
    with pytest.raises(e.HostUnavailable, match=f"{two[0].address}.*{two[1].address}"):
        cut(model, two)


@pytest.fixture
def small(body):
    """A host with one place."""
    host = Serving(body, max_clients=1)
    yield host
    host.stop()


@pytest.mark.parametrize("first", [True, False], ids=["the first", "the second"])
def test_a_full_host_does_not_keep_the_others_from_being_used(model, two, small, first):
    with RpycLink(small.address):
        with pytest.warns(UserWarning, match=f"Only 1 of 2 hosts answer: {small.address}: .* no free place"):
            split = cut(model, [small, two[0]] if first else [two[0], small])
        assert torch.equal(generate(split), generate(model)) and split.link.address == two[0].address
    split.close()


def test_where_nobody_answers_a_full_host_says_when_to_ask_again(model, two, small):
    two[0].stop()
    with RpycLink(small.address), pytest.raises(e.Busy) as caught:
        cut(model, [two[0], small])
    assert caught.value.retry_after == RETRY_SECONDS != e.Busy().retry_after
    for host in (small, two[0]):
        assert host.address in str(caught.value)
    two[0].start()
    with Fleet([two[0].address, small.address]) as link, RpycLink(small.address):
        two[0].stop()
        with pytest.raises(e.Busy) as caught:
            link.open(TERMS)
    assert caught.value.retry_after == RETRY_SECONDS


def test_a_full_host_is_waited_for_where_the_session_is(model, two, small, monkeypatch):
    monkeypatch.setattr(server, "RETRY_SECONDS", 0.1)
    split = cut(model, [small, two[0]])
    others = []

    def full():
        """Our connection ends, and somebody else takes its place for a while."""
        split.link.links[0].rest()
        end = time.monotonic() + 10
        while not others and time.monotonic() < end:
            with contextlib.suppress(e.Busy):
                others.append(RpycLink(small.address))
        threading.Timer(0.3, others[0].close).start()

    with lk.tap(split) as wire, pytest.warns(UserWarning, match="busy.*no free place"):
        got = generate(split, stopping_criteria=[At(_4=full)])
    assert torch.equal(got, generate(model))
    assert wire.hosts == {1} and split.link.host == 1 and "replay" in kinds(wire)
    split.close()


def test_a_lost_session_waits_for_a_place_at_the_next_host(model, two, small, monkeypatch):
    monkeypatch.setattr(server, "RETRY_SECONDS", 0.1)
    split = cut(model, [two[0], small])
    (other,) = [RpycLink(small.address)]

    def lost():
        two[0].stop()
        threading.Timer(0.3, other.close).start()

    with pytest.warns(UserWarning, match="busy.*no free place"), pytest.warns(UserWarning, match=MOVES):
        got = generate(split, stopping_criteria=[At(_4=lost)])
    assert torch.equal(got, generate(model)) and split.link.host == 2
    split.close()


@pytest.mark.parametrize(
    "body",
    [[], ["rpyc://127.0.0.1:1", "rpyc://127.0.0.1:1"], ["rpyc://127.0.0.1:1", 5], ["rpyc://127.0.0.1"], ["loopback"]],
    ids=str,
)
def test_lists_that_name_no_hosts(model, body):
    with pytest.raises(e.UnsupportedOption):
        lk.split(model, body=body)


# -- hosts that hang, cells that are stopped -------------------------------------------------------

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs SIGSTOP and /proc")


@pytest.fixture(scope="module")
def processes():
    with lk.host("toy-llama") as one, lk.host("toy-llama") as other:
        yield one, other


@linux
@pytest.mark.parametrize("chunk", [None, 4], ids=["one step", "several under way"])
def test_a_host_that_hangs_is_waited_for_once_and_left(model, processes, chunk):
    one, other = processes
    split = cut(model, processes, timeout=1, chunk=chunk)
    try:
        with pytest.warns(UserWarning, match=f"did not answer step within 1 s; {MOVES}"):
            stop = At(_4=lambda: os.kill(one.pid, signal.SIGSTOP))
            assert torch.equal(generate(split, stopping_criteria=[stop]), generate(model))
        assert split.link.host == 2
        os.kill(one.pid, signal.SIGCONT)
        os.kill(other.pid, signal.SIGSTOP)
        with pytest.warns(UserWarning, match=f"did not answer .* within 1 s; {MOVES} {one.address}"):
            assert torch.equal(generate(split), generate(model))
        os.kill(one.pid, signal.SIGSTOP)
        with pytest.raises(e.HostTimeout) as caught:
            generate(split)
        assert one.address in str(caught.value) and other.address in str(caught.value)
    finally:
        for host in processes:
            os.kill(host.pid, signal.SIGCONT)
    assert torch.equal(generate(split), generate(model))
    split.close()


@pytest.fixture
def interruptible():
    """Ctrl-C as at a prompt: a worker process of parallel tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@linux
@pytest.mark.parametrize("chunk", [None, 2], ids=["one step", "several under way"])
def test_a_stopped_cell_leaves_the_session_at_its_host(model, processes, interruptible, chunk):
    one, _ = processes
    split = cut(model, processes, timeout=30, chunk=chunk)
    want = generate(model)
    os.kill(one.pid, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        generate(split)
        time.sleep(5)
    os.kill(one.pid, signal.SIGCONT)
    with lk.tap(split) as wire:
        assert torch.equal(generate(split), want)
    assert wire.hosts == {1} and split.link.host == 1
    split.close()


@linux
def test_a_picture_that_is_stopped_with_calls_under_way_leaves_the_fleet_usable(interruptible):
    pipe = lk.load("toy-sd")
    pipe.set_progress_bar_config(disable=True)
    call = dict(prompt="a red apple", num_inference_steps=6, output_type="latent")

    def draw(pipe):
        return torch.as_tensor(pipe(**call, generator=torch.Generator().manual_seed(5)).images)

    with lk.host("toy-sd") as one, lk.host("toy-sd") as other:
        split = lk.split(pipe, body=[one.address, other.address], mode="lockstep", timeout=30)
        os.kill(one.pid, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            draw(split)
            time.sleep(5)
        os.kill(one.pid, signal.SIGCONT)
        with lk.tap(split) as wire:
            assert torch.equal(draw(split), draw(pipe))
        assert wire.hosts == {1}
        split.close()


# -- deployments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cloud", "split"])
def test_a_deployment_goes_on_at_the_next_host(model, where, body):
    held = load_whole("toy-llama", 0, 0, "float32") if where == "cloud" else body
    hosts = [Serving(held), Serving(held)]
    how = dict(head=2, tail=2) if where == "split" else {}
    with lk.deploy(model, where, body=[host.address for host in hosts], **how) as deployed:
        first = deployed.run(PROMPT, max_new_tokens=4).ids
        hosts[0].stop()
        with pytest.warns(UserWarning, match=MOVES):
            assert deployed.run(PROMPT, max_new_tokens=4).ids == first
    for host in hosts:
        host.stop()
