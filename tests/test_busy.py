"""A host that is busy is waited for: the reply is the same, the user hears of it once, and there is an end to it."""

from __future__ import annotations

import random
import threading
import warnings

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit.models.partial import load_body
from lsplit_kit.models.whole import load_whole
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.protocol import rebuild
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.wire import patience

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::FutureWarning")]
PROMPT, TOKEN = torch.tensor([[5, 9, 17, 40, 3]]), bytes(range(32))
SAYS = "2 questions are waiting."


class BusyBody:
    """A body that refuses these steps (1, 2, ... of all), or all of them, as a host with a full queue does."""

    def __init__(self, body, steps=(), always=False, count=None):
        self.body, self.steps, self.always, self.count = body, steps, always, [0] if count is None else count

    def __getattr__(self, name):
        return getattr(self.body, name)

    def fork(self):
        return BusyBody(self.body.fork(), self.steps, self.always, self.count)

    def work(self, number, step):
        self.count[0] += 1
        if self.always or self.count[0] in self.steps:
            raise e.Busy(SAYS, retry_after=0.03, position=2)
        return (yield from self.body.work(number, step))


@pytest.fixture
def serve():
    """Serve a body on a real socket; returns a link to it."""
    servers, links = [], []

    def start(body, timeout=20.0):
        server = StrictServer(service_of(body), TOKEN)
        server.listener.listen(8)
        threading.Thread(target=server.start, daemon=True).start()
        servers.append(server)
        links.append(RpycLink(server.address, timeout, token=TOKEN))
        return links[-1]

    yield start
    for ended in (*links, *servers):
        ended.close()


@pytest.fixture(scope="module")
def model():
    return lk.load("toy-llama")[0]


@pytest.fixture(scope="module")
def body():
    return load_body("toy-llama", 2, 2)


@pytest.fixture(scope="module")
def pipe():
    made = lk.load("toy-sd")
    made.set_progress_bar_config(disable=True)
    return made


def generate(model, count=10):
    return model.generate(PROMPT, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=[])


def said(caught):
    return [str(w.message) for w in caught if "busy" in str(w.message)]


@pytest.mark.parametrize("how", [{}, {"chunk": 2}, {"cache": "hidden"}, {"cache": "none"}], ids=str)
def test_a_reply_waits_and_goes_on(serve, model, body, how):
    split = lk.split(model, body=serve(BusyBody(body, (1, 2, 5, 9))), **how)
    with lk.tap(split) as wire, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.equal(generate(split), generate(model))
    assert len(said(caught)) == 1 and SAYS in said(caught)[0]
    rows = wire.ledger()
    assert (rows.kind == "busy").any() and wire.counters()["stream"] == tuple(wire.totals()["frame"])
    if "chunk" not in how:  # one step at a time: the host still has the session, and nothing is sent again but the step
        assert (rows.kind == "busy").sum() == 2 * 4 and "replay" not in set(rows.kind)


@pytest.mark.parametrize("codec", [None, ("fp32", "uniform:step=0.1+delta+ans")], ids=["fp32", "delta"])
@pytest.mark.parametrize("mode", ["per_step", "lockstep"])
def test_a_picture_waits_and_is_the_same_to_the_bit(serve, pipe, mode, codec):
    def draw(pipe):
        call = dict(prompt="a red apple", num_inference_steps=6, output_type="latent")
        return torch.as_tensor(pipe(**call, generator=torch.Generator().manual_seed(5)).images)

    link = serve(BusyBody(load_body("toy-sd"), (1, 4, 9)))
    split = lk.split(pipe, body=link, mode=mode, codec=codec)
    with pytest.warns(UserWarning, match="busy"):
        assert torch.equal(draw(split), draw(lk.split(pipe, mode=mode, codec=codec)))


def test_who_is_always_busy_is_left_in_the_end(serve, model, body):
    split = lk.split(model, body=serve(BusyBody(body, always=True), timeout=0.3))
    with pytest.warns(UserWarning, match="up to 0.3 s"), pytest.raises(e.Busy, match="waiting") as caught:
        generate(split)
    assert caught.value.retry_after == 0.03 and caught.value.page == "docs/errors/busy.md"
    split.link.close()


def test_another_host_is_not_asked_by_a_busy_one(model, body):
    """It would see the prompt, and the first is not lost."""
    from lsplit_kit.remote.fleet import Fleet

    servers = [StrictServer(service_of(one), TOKEN) for one in (BusyBody(body, (2, 3)), body)]
    for server in servers:
        server.listener.listen(8)
        threading.Thread(target=server.start, daemon=True).start()
    with Fleet([server.address for server in servers], 20.0, token=TOKEN) as link:
        split = lk.split(model, body=link)
        with lk.tap(split) as wire, pytest.warns(UserWarning, match="busy"):
            assert torch.equal(generate(split), generate(model))
        assert wire.hosts == {1} and link.host == 1
    for server in servers:
        server.close()


def test_the_cloud_waits_before_the_first_token(serve, model):
    body = load_whole("toy-llama")
    want = lk.deploy(model, "cloud").run(PROMPT, max_new_tokens=4).ids
    with pytest.warns(UserWarning, match="busy"):
        assert lk.deploy(model, "cloud", body=serve(BusyBody(body, (1,)))).run(PROMPT, max_new_tokens=4).ids == want


def test_a_wait_draws_nothing_of_the_users(serve, model, body):
    split = lk.split(model, body=serve(BusyBody(body, (1, 2))))
    random.seed(4)
    want = random.random()
    random.seed(4)
    with pytest.warns(UserWarning, match="busy"):
        generate(split, 2)
    assert random.random() == want


@pytest.mark.parametrize("how", [{}, {"chunk": 2}], ids=str)
def test_each_reply_says_once_that_it_waits(serve, model, body, how):
    split = lk.split(model, body=serve(BusyBody(body, always=True), timeout=0.2), **how)
    for _ in range(3):
        with warnings.catch_warnings(record=True) as caught, pytest.raises(e.Busy):
            generate(split)
        assert len(said(caught)) == 1
        assert [w.filename for w in caught if "busy" in str(w.message)] == [__file__]  # no line of the kit's


def test_each_picture_says_once_that_it_waits(serve, pipe):
    split = lk.split(pipe, body=serve(BusyBody(load_body("toy-sd"), (1, 3, 7, 9))), mode="per_step")
    for _ in range(2):  # of four calls each, two of which are refused
        with warnings.catch_warnings(record=True) as caught:
            split("a red apple", num_inference_steps=4, output_type="latent")
        assert len(said(caught)) == 1


def test_a_long_wait_is_said_again(serve, model, body, monkeypatch):
    monkeypatch.setattr(patience, "LONG", 0.2)
    split = lk.split(model, body=serve(BusyBody(body, always=True), timeout=0.6))
    with warnings.catch_warnings(record=True) as caught, pytest.raises(e.Busy):
        generate(split)
    assert len(said(caught)) == 2


@pytest.mark.parametrize("seconds", [0.0004, 0.25, 7.0])
def test_the_seconds_cross_as_milliseconds(seconds):
    from lsplit_kit.remote.protocol import _number

    crossed = rebuild("busy", SAYS, "abcd", _number(e.Busy(SAYS, seconds)))
    assert type(crossed) is e.Busy and crossed.retry_after == max(0.001, seconds)


@pytest.mark.parametrize(
    ("position", "text"), [(7, SAYS), (10**9 - 1, "x" * 1000), (1, ""), (3, "a\nb"), (5, "Place 9 in its queue.")]
)
def test_the_place_in_the_queue_crosses_with_the_text(position, text):
    """In the text, because peers of earlier versions refuse an error of more than four fields."""
    from lsplit_kit.remote.protocol import _text

    crossed = rebuild("busy", _text(e.Busy(text, 1.0, position)), "abcd", 1000)
    assert crossed.position == position and f"Place {position} in its queue" in str(crossed)
    assert len(str(crossed)) <= 400 and str(crossed).isprintable()


@pytest.mark.parametrize("position", [0, -3, 10**9, 10**40])
def test_a_place_that_is_none_does_not_cross(position):
    from lsplit_kit.remote.protocol import _text

    assert rebuild("busy", _text(e.Busy(SAYS, 1.0, position)), "abcd", 1000).position == 0
    for hostile in (f"Place {position} in its queue.", f" Place {'9' * 300} in its queue."):
        assert rebuild("busy", hostile, "abcd", 1000).position == 0


def test_the_user_hears_the_place_in_the_queue(serve, model, body):
    split = lk.split(model, body=serve(BusyBody(body, (1,))))
    with pytest.warns(UserWarning, match="busy.*Place 2 in its queue"):
        generate(split, 2)
    split = lk.split(model, body=serve(BusyBody(body, always=True), timeout=0.2))
    with pytest.warns(UserWarning, match="busy"), pytest.raises(e.Busy) as caught:
        generate(split)
    assert caught.value.position == 2
