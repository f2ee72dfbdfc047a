"""A host that goes away in the middle of a reply is waited for; when it is back, the reply goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import warnings

import pytest
import torch
from transformers import StoppingCriteria

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit.models.partial import load_body
from lsplit_kit.models.pictures import load_picture_body
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.remote.token import write_token
from lsplit_kit.wire import patience

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::FutureWarning")]
PROMPT = torch.tensor([[5, 9, 17, 40, 3]])
SAYS = "Waiting up to"


class Serving:
    """A real socket and protocol over a body in this process, which can go away and come back at its port."""

    def __init__(self, body):
        self.body, self.port = body, 0
        self.start()

    def start(self):
        self.server = StrictServer(service_of(self.body), bytes(range(32)), "127.0.0.1", self.port)
        self.port, self.address = self.server.port, self.server.address
        self.file = write_token("127.0.0.1", self.port, bytes(range(32)))
        self.server.listener.listen(8)
        self.thread = threading.Thread(target=self.server.start, daemon=True)
        self.thread.start()
        while not self.server.active:  # a server that is closed before it listens complains
            time.sleep(0.001)

    def stop(self):
        self.server.close()
        self.thread.join(10)
        self.file.unlink(missing_ok=True)

    def leave(self, seconds=0.3):
        """Go away, and come back by itself."""
        self.stop()
        self.back = threading.Timer(seconds, self.start)
        self.back.start()


class At(StoppingCriteria):
    """Does something when so many tokens of a reply are there."""

    def __init__(self, tokens, do):
        self.left, self.do = tokens, do

    def __call__(self, input_ids, scores, **options):
        self.left -= 1
        if not self.left:
            self.do()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


@pytest.fixture(scope="module")
def model():
    return lk.load("toy-llama")[0]


@pytest.fixture(scope="module")
def body():
    return load_body("toy-llama", 2, 2)


@pytest.fixture
def host(body):
    serving = Serving(body)
    yield serving
    serving.stop()


def cut(model, *hosts, **options):
    body = [host.address for host in hosts] if len(hosts) > 1 else hosts[0].address
    return lk.split(model, head=2, tail=2, body=body, **options)


def generate(model, count=10, **options):
    return model.generate(PROMPT, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=[], **options)


@pytest.mark.parametrize("how", [{}, {"chunk": 2}, {"cache": "hidden"}, {"cache": "none"}, {"network": "dsl"}], ids=str)
def test_a_reply_goes_on_when_the_host_is_back(model, host, how):
    split = cut(model, host, **how)
    with pytest.warns(UserWarning, match=SAYS) as caught:
        got = generate(split, stopping_criteria=[At(4, host.leave)])
    assert torch.equal(got, generate(model))
    (said,) = [w for w in caught if SAYS in str(w.message)]
    assert host.address in str(said.message) and "up to 10 s" in str(said.message)
    assert said.filename == __file__  # the line of who asked, none of the kit's
    split.close()


@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
def test_a_picture_goes_on_when_the_host_is_back(mode):
    pipe, host = lk.load("toy-sd"), Serving(load_picture_body("toy-sd"))
    pipe.set_progress_bar_config(disable=True)

    def draw(pipe, **options):
        call = dict(prompt="a red apple", num_inference_steps=6, output_type="latent", **options)
        return torch.as_tensor(pipe(**call, generator=torch.Generator().manual_seed(5)).images)

    def leave(pipe, step, t, kwargs):
        if step == 2:
            host.leave()
        return {}

    split = lk.split(pipe, body=host.address, mode=mode)
    with pytest.warns(UserWarning, match=SAYS):
        got = draw(split, callback_on_step_end=leave)
    assert torch.equal(got, draw(pipe))
    split.close()
    host.stop()


def test_of_several_hosts_that_are_all_gone_one_comes_back(model, body, host):
    other = Serving(body)

    def leave():
        other.stop()
        host.leave()

    split = cut(model, host, other)
    with pytest.warns(UserWarning, match=f"{host.address}.*{other.address}.*{SAYS}"):
        got = generate(split, stopping_criteria=[At(4, leave)])
    assert torch.equal(got, generate(model)) and split.link.host == 1
    split.close()


def test_who_does_not_come_back_is_waited_for_once_and_then_an_error(model, host, monkeypatch):
    monkeypatch.setattr(patience, "RETURN_SECONDS", 0.3)
    split = cut(model, host)
    with (
        pytest.warns(UserWarning) as caught,
        pytest.raises(e.HostUnavailable, match=f"No host answers at {host.address}"),
    ):
        generate(split, stopping_criteria=[At(4, host.stop)])
    assert [f"{SAYS} 0.3 s" in str(w.message) for w in caught if SAYS in str(w.message)] == [True]
    host.start()
    assert torch.equal(generate(split), generate(model))
    split.close()


def test_a_shorter_timeout_of_the_link_wins(model, host):
    split = cut(model, host, timeout=0.5)
    with pytest.warns(UserWarning, match=f"{SAYS} 0.5 s"), pytest.raises(e.HostUnavailable):
        generate(split, stopping_criteria=[At(4, host.stop)])
    host.start()
    split.close()


@pytest.fixture
def interruptible():
    """Ctrl-C as at a prompt: a worker process of parallel tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_wait_can_be_stopped(model, host, interruptible, monkeypatch):
    monkeypatch.setattr(patience, "RETURN_SECONDS", 60.0)  # over which this test would fail
    split = cut(model, host)

    def stop():
        host.stop()
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.warns(UserWarning, match=SAYS), pytest.raises(KeyboardInterrupt):
        generate(split, stopping_criteria=[At(4, stop)])
    host.start()
    assert torch.equal(generate(split), generate(model))
    split.close()


def test_who_never_was_there_is_not_waited_for(model):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=SAYS)
        with pytest.raises(e.HostUnavailable, match="start one first"):
            lk.split(model, head=2, tail=2, body=f"rpyc://127.0.0.1:{port}")
        with pytest.raises(e.HostUnavailable, match="None of the 2 hosts"):
            lk.split(model, head=2, tail=2, body=[f"rpyc://127.0.0.1:{port}", f"rpyc://localhost:{port}"])


def test_a_closed_link_is_not_waited_for(model, host):
    split = cut(model, host)
    split.close()
    with warnings.catch_warnings(), pytest.raises(e.HostUnavailable, match="closed"):
        warnings.filterwarnings("error", message=SAYS)
        generate(split)


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
            with contextlib.suppress(OSError):  # one that has ended already
                sock.shutdown(socket.SHUT_RDWR)
        return (yield from self.body.work(number, step))


def test_a_host_that_is_there_and_breaks_off_is_asked_three_times(model, body):
    bad = Serving(Breaking(body, lambda: bad))
    split = cut(model, bad)
    with lk.tap(split) as wire, warnings.catch_warnings():
        warnings.filterwarnings("error", message=SAYS)
        with pytest.raises(e.HostUnavailable, match="broke in step"):
            generate(split)
    assert sum(c.kind == "open" for c in wire.crossings) == 2 * patience.TRIES
    split.close()
    bad.stop()
