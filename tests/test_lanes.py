"""Several sessions, threads and pipelines over one link: an answer belongs to the session that asked for it."""

import contextlib
import itertools
import os
import signal
import threading

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import CacheMiss, HostUnavailable, LimitExceeded, SessionUnknown
from lsplit_kit.quantization import codec
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.fleet import Fleet
from lsplit_kit.split.body import body_of
from lsplit_kit.split.plan import SplitPlan
from lsplit_kit.split.whole_client import reply
from lsplit_kit.wire.emulated import EmulatedLink
from lsplit_kit.wire.here import InProcess, Loopback
from lsplit_kit.wire.message import Open, Step
from lsplit_kit.wire.patience import OTHERS, TRIES

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(120)
TERMS = Open("kv", "fp32", "fp32")
GREEDY = dict(max_new_tokens=6, do_sample=False, eos_token_id=[])
IDS = [torch.randint(5, 90, (1, 37), generator=torch.Generator().manual_seed(n)) for n in range(2)]
KINDS = ("in process", "loopback", "host", "fleet", "emulated", "emulated in real time")
FRAMED = KINDS[1:]


@pytest.fixture(scope="module")
def model():
    return lk.load("toy-llama")[0]


@pytest.fixture(scope="module")
def host():
    with lk.host("toy-llama", head=1, tail=1) as running:
        yield running


@pytest.fixture(scope="module")
def whole_host():
    with lk.host("toy-llama", whole=True) as running:
        yield running


@pytest.fixture
def make(model, host):
    """A link of a kind to the toy's body."""
    made = []

    def link(kind):
        if kind in ("in process", "loopback", "emulated"):
            found = (InProcess if kind == "in process" else Loopback)(body_of(model, SplitPlan(1, 1)))
            found = EmulatedLink(found, rtt_ms=10) if kind == "emulated" else found
        else:
            found = Fleet([host.address]) if kind == "fleet" else RpycLink(host.address)
            found = EmulatedLink(found, rtt_ms=4, realtime=True) if kind == "emulated in real time" else found
        made.append(found)
        return found

    yield link
    for each in made:
        each.close()


@pytest.fixture
def link(make, request):
    return make(request.param)


every = pytest.mark.parametrize("link", KINDS, indirect=True)
framed = pytest.mark.parametrize("link", FRAMED, indirect=True)


def chunks(link, seed, count=3, tokens=3):
    hidden = torch.randn(1, count * tokens, link.info.width, generator=torch.Generator().manual_seed(seed))
    payloads = [codec("fp32").encode(part).payload for part in hidden.split(tokens, dim=1)]
    return [Step(i + 1, i * tokens, 1, tokens, payload) for i, payload in enumerate(payloads)]


def alone(link, steps):
    """The answers to steps that are sent one at a time."""
    session = link.open(TERMS)
    try:
        return [link.step(session, step).payload for step in steps]
    finally:
        link.close_session(session)


def two_under_way(link):
    """(session, its answers) twice; their steps are under way, one after the other."""
    steps = [chunks(link, seed) for seed in (1, 2)]
    wanted = [alone(link, each) for each in steps]
    sessions = [link.open(TERMS) for _ in steps]
    for pair in zip(*steps, strict=True):
        for session, step in zip(sessions, pair, strict=True):
            link.send(session, step)
    return list(zip(sessions, wanted, strict=True))


def answers(link, session, count=3):
    return [link.receive(session).payload for _ in range(count)]


def together(*jobs):
    """What the jobs return, each in a thread of its own; an error of any is raised."""
    found = [None] * len(jobs)

    def run(place, job):
        try:
            found[place] = job()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found


def crossed(link, flight):
    """Two threads send `flight` steps each before one of them reads, and the last to have sent reads its own first."""
    met, read, mine, real = threading.Barrier(2), threading.Event(), threading.local(), link.receive

    def receive(*asked):
        if not hasattr(mine, "left"):
            mine.left, mine.first = flight, met.wait(30) == 0  # came to the barrier before the other
            if mine.first:
                read.wait(30)
        done = real(*asked)
        mine.left -= 1
        if not mine.left:
            read.set()
        return done

    link.receive = receive


def undisturbed(wire):
    """Whether nothing was sent again, dropped or lost."""
    return set(wire.ledger().kind) <= {"hello", "open", "step", "close"}


# -- links -----------------------------------------------------------------------------------------


@every
def test_an_answer_belongs_to_the_session_that_asked(link):
    (one, first), (two, second) = two_under_way(link)
    assert answers(link, two) == second and answers(link, one) == first
    for session in (one, two):
        with pytest.raises(SessionUnknown, match="No step is under way"):
            link.receive(session)


@every
def test_a_step_an_opening_and_an_end_leave_the_steps_of_others_under_way(link):
    (one, first), (two, second) = two_under_way(link)
    steps = chunks(link, 3)
    assert alone(link, steps) == alone(link, steps)
    link.timings()
    assert answers(link, two) == second and answers(link, one) == first


@every
@pytest.mark.parametrize("how", ["drop", "close_session", "abandon"])
def test_who_lets_go_of_answers_takes_none_of_others(link, how):
    (one, _), (two, second) = two_under_way(link)
    getattr(link, how)(one)
    assert not link.ready(one) and link.ready(two, 10)
    assert answers(link, two) == second
    with pytest.raises(SessionUnknown):
        link.receive(one)
    assert alone(link, chunks(link, 2)) == second


@framed
@pytest.mark.parametrize("how", ["drop", "close_session", "abandon"])
def test_the_books_hold_every_byte_of_every_session(link, how):
    noted, before = [], link.counters()["stream"]
    link.on_control = lambda kind, up, down: noted.append((up, down))
    steps, (one, two) = chunks(link, 2), [link.open(TERMS) for _ in range(2)]
    for step in steps:
        link.send(one, step)
        link.send(two, step)
    read = [link.receive(two)]  # with an answer before it that waits
    getattr(link, how)(one)
    read += [link.receive(two), link.step(two, steps[-1])]  # an answer that nobody comes for
    link.close_session(two)
    link.open(TERMS)
    after = link.counters()["stream"]
    ups, downs = zip(*noted, *((done.frame_up, done.frame_down) for done in read), strict=True)
    assert (sum(ups), sum(downs)) == (after[0] - before[0], after[1] - before[1])


@every
def test_an_error_of_one_session_is_raised_there(link):
    (one, _), (two, second) = two_under_way(link)
    link.send(one, Step(9, 40, 1, 1, bytes(4 * link.info.width)))  # begins behind what the host has
    link.send(two, chunks(link, 2)[-1])  # what was sent already: the same answer
    assert answers(link, two, 4) == [*second, second[-1]]
    answers(link, one)
    with pytest.raises(CacheMiss):
        link.receive(one)


@every
def test_a_thread_that_ends_between_sending_and_reading_locks_nobody_out(link):
    sent = []
    together(lambda: sent.append(two_under_way(link)))
    (one, _), (two, second) = sent[0]
    assert together(lambda: answers(link, two)) == [second]
    link.close_session(one)
    assert alone(link, chunks(link, 2)) == second


@every
def test_threads_read_their_own_answers(link):
    wanted = {seed: alone(link, chunks(link, seed)) for seed in range(3)}

    def run(seed):
        for _ in range(5):
            session = link.open(TERMS)
            for step in chunks(link, seed):
                link.send(session, step)
            assert answers(link, session) == wanted[seed]
            link.close_session(session)

    together(*(lambda seed=seed: run(seed) for seed in wanted))


def test_a_lost_connection_is_told_to_its_reader_and_its_other_sessions_are_gone():
    with lk.host("toy-llama", head=1, tail=1) as running, RpycLink(running.address) as link:
        (one, _), (two, _) = two_under_way(link)
        os.kill(running.pid, signal.SIGSTOP)
        for session in (one, two):
            link.send(session, Step(9, 9, 1, 1, bytes(4 * link.info.width)))
        os.kill(running.pid, signal.SIGKILL)
        with pytest.raises(HostUnavailable):
            for _ in range(5):
                link.receive(two)
        for session in (one, two):
            with pytest.raises(SessionUnknown):
                link.receive(session)


def test_letting_go_of_a_session_whose_host_is_gone_is_no_error():
    with lk.host("toy-llama", head=1, tail=1) as running, RpycLink(running.address) as link:
        one, two = (link.open(TERMS) for _ in range(2))
        os.kill(running.pid, signal.SIGSTOP)
        for session in (one, two):
            link.send(session, chunks(link, 1)[0])
        os.kill(running.pid, signal.SIGKILL)
        assert link.ready(one, 30)
        link.abandon(one)
        with pytest.raises((HostUnavailable, SessionUnknown)):
            link.receive(two)
        link.abandon(two)


def test_a_reader_who_is_stopped_ends_the_connection_and_locks_nobody_out():
    def stop(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with lk.host("toy-llama", head=1, tail=1) as running, RpycLink(running.address) as link:
            wanted = alone(link, chunks(link, 1))
            one, two = (link.open(TERMS) for _ in range(2))
            os.kill(running.pid, signal.SIGSTOP)
            for session in (one, two):
                link.send(session, chunks(link, 1)[0])
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                link.receive(two)
            os.kill(running.pid, signal.SIGCONT)
            with pytest.raises(SessionUnknown):
                link.receive(one)
            assert together(lambda: alone(link, chunks(link, 1))) == [wanted]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Struck:
    """A link whose connection ends so often before steps, by the hand of another thread or of this one."""

    def __init__(self, link, times, other=True):
        self.link, self.times, self.other, self.tries = link, times, other, 0

    def __getattr__(self, name):
        return getattr(self.link, name)

    def _strike(self):
        self.tries += 1
        if self.tries <= self.times:
            end = self.link.links[0].rest if isinstance(self.link, Fleet) else self.link.rest
            together(end) if self.other else end()

    def step(self, *what):
        self._strike()
        return self.link.step(*what)

    def send(self, *what):
        self._strike()
        return self.link.send(*what)


@pytest.mark.parametrize("how", [{}, {"chunk": 40}, {"cache": "none"}], ids=str)
@pytest.mark.parametrize("kind", ["host", "fleet"])
def test_who_is_stopped_in_another_thread_costs_the_others_no_try(make, model, kind, how):
    link = Struck(make(kind), 8)
    split = lk.split(model, head=1, tail=1, body=link, **how)
    assert torch.equal(split.generate(IDS[0], **GREEDY), model.generate(IDS[0], **GREEDY)) and link.epoch >= 8


@pytest.mark.parametrize(("other", "tries"), [(True, OTHERS + TRIES), (False, TRIES)])
def test_there_is_an_end_to_the_tries_whoever_ends_the_connection(make, model, other, tries):
    link = Struck(make("host"), 10_000, other)
    with pytest.raises(SessionUnknown, match="ended with its connection"):
        lk.split(model, head=1, tail=1, body=link).generate(IDS[0], **GREEDY)
    assert link.tries == tries


def test_a_fork_reads_none_of_its_parents_answers(make):
    link = make("host")
    (one, first), (two, second) = two_under_way(link)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            for ask in (link.receive, link.step):
                try:
                    ask(*((one, chunks(link, 1)[0]) if ask == link.step else (one,)))
                except SessionUnknown:
                    continue
                os._exit(1)
            link.drop(two)
            link.abandon(two)
            os._exit(0)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert answers(link, two) == second and answers(link, one) == first


def test_many_answers_that_nobody_reads_yet_do_not_stop_a_second_sender(make, monkeypatch):
    monkeypatch.setattr("lsplit_kit.remote.client.READ_AHEAD", 16 << 20)  # half of it is more than sockets hold
    link = make("host")
    wide = 64  # rows
    steps = [Step(n + 1, 0, wide, 60, bytes(4 * link.info.width * wide * 60)) for n in range(48)]
    one, two = (link.open(TERMS) for _ in range(2))
    for step in steps[:24]:
        link.send(one, step)
    for step in steps[24:]:
        link.send(two, step)
    for session in (two, one):
        assert {len(answer) for answer in answers(link, session, 24)} == {len(steps[0].payload)}


# -- texts -----------------------------------------------------------------------------------------


@every
def test_two_threads_send_their_prompts_in_pieces(model, link):
    lm = lk.split(model, head=1, tail=1, body=link, chunk=10)
    crossed(link, 4)
    made = together(*(lambda ids=ids: lm(ids).logits for ids in IDS))
    assert [torch.allclose(got, model(ids).logits, atol=2e-4) for got, ids in zip(made, IDS, strict=True)] == [True] * 2


@pytest.mark.parametrize("link", ["host", "fleet"], indirect=True)
def test_two_threads_write_at_once_over_one_link(model, link):
    lm = lk.split(model, head=1, tail=1, body=link, chunk=8)
    whole = [model.generate(ids, **GREEDY).tolist() for ids in IDS]
    for _ in range(5):
        assert together(*(lambda ids=ids: lm.generate(ids, **GREEDY).tolist() for ids in IDS)) == whole


@pytest.mark.parametrize("link", ["loopback", "host"], indirect=True)
def test_two_threads_draft_at_once(model, link):
    lm = lk.split(model, head=1, tail=1, body=link, chunk=10)
    crossed(link, 4)
    with lk.tap(lm) as wire:
        made = together(*(lambda ids=ids: lk.speculate(lm, "lookup").generate(ids, **GREEDY).tolist() for ids in IDS))
    assert made == [model.generate(ids, **GREEDY).tolist() for ids in IDS] and undisturbed(wire)


@pytest.mark.parametrize("link", ["loopback", "host"], indirect=True)
def test_a_tap_hears_all_of_two_threads(model, link):
    lm = lk.split(model, head=1, tail=1, body=link, chunk=8)
    with lk.tap(lm) as wire:
        together(*(lambda ids=ids: lm.generate(ids, **GREEDY) for ids in IDS))
    assert wire.counters()["stream"] == tuple(wire.totals()["frame"])


@pytest.mark.parametrize("cache", ["kv", "none"])
@pytest.mark.parametrize("link", ["loopback", "host"], indirect=True)
def test_a_text_over_the_context_is_refused_before_any_of_it_goes_up(model, link, cache):
    lm = lk.split(model, head=1, tail=1, body=link, cache=cache, chunk=8 if cache == "kv" else None)
    before, most = link.counters(), link.info.max_tokens
    with pytest.raises(LimitExceeded, match=f"^{most + 9:,} positions; this model's context ends at {most:,}"):
        lm(torch.full((1, most + 9), 7))
    assert link.counters() == before
    assert torch.allclose(lm(IDS[0]).logits, model(IDS[0]).logits, atol=2e-4)


# -- whole models ----------------------------------------------------------------------------------


@pytest.fixture(params=["loopback", "host"])
def cloud(request, whole_host):
    with lk.deploy("toy-llama", "cloud", body=whole_host.address if request.param == "host" else "loopback") as made:
        yield made


def test_two_replies_on_one_link_are_each_their_prompts(cloud):
    def begin(ids):
        return (token for token, _ in reply(cloud.link, ids[0].tolist(), {"max_new_tokens": 12}))

    wanted = [list(begin(ids)) for ids in IDS]
    one, two = map(begin, IDS)
    read = [*zip(*itertools.zip_longest(one, two), strict=True)]
    assert [[token for token in each if token is not None] for each in read] == wanted
    one, two = map(begin, IDS)
    assert [next(one), next(two)] == [each[0] for each in wanted]
    one.close()  # with its other tokens under way
    assert [*two] == wanted[1][1:]


def test_two_threads_run_one_deployment(cloud):
    wanted = [cloud.run(ids, max_new_tokens=12).ids for ids in IDS]
    for _ in range(3):
        assert together(*(lambda ids=ids: cloud.run(ids, max_new_tokens=12).ids for ids in IDS)) == wanted


# -- pictures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def painter():
    return lk.load("toy-sd")


@pytest.fixture(scope="module", params=["loopback", "host"])
def easel(request, painter):
    """A link to the toy's denoiser."""
    if request.param == "loopback":
        yield lk.split(painter, mode="lockstep", body="loopback").link
        return
    with lk.host("toy-sd") as running, RpycLink(running.address) as link:
        yield link


def draw(pipe, seed, **more):
    noise = torch.Generator().manual_seed(seed)
    call = dict(num_inference_steps=5, output_type="latent", generator=noise) | more
    return torch.as_tensor(pipe("a red apple", **call).images)


def test_a_picture_inside_another_over_one_link(painter, easel):
    one, two = (lk.split(painter, mode="lockstep", body=easel) for _ in range(2))
    inner = []

    def at(pipe, step, t, kwargs):
        if step == 1:
            inner.append(draw(two, 2))
        return {}

    with lk.tap(one) as wire:
        outer = draw(one, 1, callback_on_step_end=at)
    assert undisturbed(wire)
    assert torch.equal(outer, draw(painter, 1)) and torch.equal(inner[0], draw(painter, 2))


def test_two_pipelines_draw_in_two_threads_over_one_link(painter, easel):
    pipes = [lk.split(painter, mode="lockstep", body=easel) for _ in range(2)]
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    made = together(*(lambda n=n: draw(pipes[n], n) for n in range(2)))
    assert [torch.equal(made[n], draw(painter, n)) for n in range(2)] == [True, True]


@pytest.mark.parametrize("easel", ["host"], indirect=True)
def test_a_picture_goes_on_however_often_another_thread_is_stopped(painter, easel):
    link = Struck(easel, 8)
    split = lk.split(painter, mode="per_step", body=link)
    assert torch.equal(draw(split, 1), draw(painter, 1)) and link.tries > 8
