"""Who attacks a host from inside, token in hand: mutated and stalled frames, floods, and the parts that clients share.

`tests/test_remote_protocol.py` and `tests/test_bad_input.py` hold the single cases; here there are thousands of frames,
and a neighbour whose answers must not change. `benchmarks/hostile.py` does the same a hundred thousand times.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import sys
import threading
import time
from functools import cache
from pathlib import Path

import psutil
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import errors
from lsplit_kit.models import partial
from lsplit_kit.models.partial import Held
from lsplit_kit.quantization import codec
from lsplit_kit.quantization.calibration import write
from lsplit_kit.remote import server as servers
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.remote.sharing import Sharing
from lsplit_kit.split import needs, together
from lsplit_kit.split import pool as pools
from lsplit_kit.split.plan import SplitPlan
from lsplit_kit.wire.message import Open, Step

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from mutants import Attacker, fuzz, named, told
from soakers import Stage

torch.set_num_threads(1)
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore:The host is busy:UserWarning")]
TOKEN, TERMS, WIDTH = b"t" * 32, Open("kv", "fp32", "fp32"), 64
ZEROS = "uniform:step=0.1+ans"  # a tensor of zeros is six bytes, whatever its size


@cache
def model():
    return lk.load("toy-llama")[0]


class Class:
    """A host in a thread of this process, on a real socket; its neighbours' sessions have to stay as they are."""

    def __init__(self, sharing=None, plan=(1, 1), **options):
        sharing = sharing or Sharing()
        self.body = Held(model(), SplitPlan(*plan))
        self.body.pool = sharing.check().pool()
        self.turns = sharing.turns(self.body.pool)
        self.server = StrictServer(service_of(self.body, self.turns), TOKEN, **{"deadline": 1.0, **options})
        self.server.listener.listen(64)
        self.thread = threading.Thread(target=self.server.start, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.server.close()
        self.thread.join(5)

    def link(self, timeout=30.0):
        return RpycLink(self.server.address, timeout, token=TOKEN)

    def attacker(self):
        return Attacker((self.server.host, self.server.port), TOKEN)

    def settled(self):
        """No session, no place, no step is left of those who went; False when that does not come true."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if not (self.body.pool.held() or self.turns.queued() or self.server._named or self.server._strangers):
                return self.body.pool.bytes == self.body.pool.brought == 0
            time.sleep(0.01)
        return False


class Neighbour:
    """A client that goes on, a position at a time, and knows what it has to hear."""

    def __init__(self, host, seed=0):
        self.vectors = torch.randn(1, 40, WIDTH, generator=torch.Generator().manual_seed(seed))
        self.alone = Held(model(), SplitPlan(1, 1))
        self.link, self.at = host.link(), 0
        self.here, self.there = self.alone.open(TERMS), self.link.open(TERMS)
        self.go_on(8)

    def go_on(self, count=1):
        new = self.vectors[:, self.at : self.at + count]
        step = Step(self.at, self.at, 1, count, new.numpy().tobytes())
        want, got = self.alone.step(self.here, step), self.link.step(self.there, step).payload
        self.at += count
        torch.testing.assert_close(tensor(got), tensor(want), rtol=1e-4, atol=1e-4)

    def leave(self):
        assert self.link.epoch == 0
        self.link.close()


def tensor(payload):
    return torch.frombuffer(bytearray(payload), dtype=torch.float32)


def data(count=1, value=0.5, batch=1):
    return torch.full((batch, count, WIDTH), value).numpy().tobytes()


def resident():
    gc.collect()
    return psutil.Process().memory_info().rss


# -- thousands of frames ----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [("bytes", 5000), ("fields", 2500)])
def test_mutated_frames_do_no_harm(kind, count):
    """bytes: bits, cuts and insertions in good frames. fields: well-formed calls with fields of other kinds."""
    with Class(Sharing(batch_window_ms=0.0)) as host:
        neighbour = Neighbour(host)
        fuzz(host.attacker, kind, 200, seed=1)  # buffers and tables that are made once
        before, threads = resident(), threading.active_count()
        heard = fuzz(host.attacker, kind, count, seed=2, beside=lambda n: n % 500 == 0 and neighbour.go_on())
        assert sum(heard.values()) == count and heard["answer"] and heard["end" if kind == "bytes" else "frame"]
        assert not heard["host-error"] and not heard["silence"]
        assert resident() - before <= 32e6
        neighbour.go_on()
        neighbour.leave()
        assert host.settled() and threading.active_count() <= threads


def test_drips_stalls_and_half_open_connections_cost_their_owner_only():
    with Class(max_clients=6, idle=2.0) as host:
        neighbour = Neighbour(host)
        stalled = [host.attacker() for _ in range(3)]
        before = resident()
        for one in stalled:
            one.hello()
            one.stream.write((16 << 20).to_bytes(4, "big") + b"\0")  # 16 MiB will come; none does
        drip, vanished = host.attacker(), host.attacker()
        ended = 0
        for number, byte in enumerate((100).to_bytes(4, "big") + bytes(90)):
            try:
                drip.stream.write(bytes([byte]))
            except EOFError:
                ended = ended or number
            if number % 4 == 0:
                neighbour.go_on()
            time.sleep(0.02)
        assert 0 < ended < 90  # a second for all of a frame, not for each of its bytes
        assert resident() - before < 16e6  # room is made for what comes, not for what is announced
        for one in (*stalled, vanished):  # the last said nothing at all, as a machine does that is gone
            with pytest.raises(EOFError, match="closed"):
                one.stream.read(1, time.monotonic() + 10)
        with host.link() as link:  # their places are free again
            link.open(TERMS)
        neighbour.leave()
        assert host.settled()


# -- the door ---------------------------------------------------------------------------------------


def test_a_stranger_who_hangs_up_at_once_is_a_line_of_the_log_and_no_traceback(caplog, capfd):
    caplog.set_level("INFO", "lsplit_kit.host")
    with Class() as host:
        for _ in range(5):
            stranger = socket.create_connection((host.server.host, host.server.port))
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stranger.close()  # with a reset
        with host.link() as link:
            link.open(TERMS)
        assert host.settled()
    assert "Traceback" not in capfd.readouterr().err + caplog.text
    assert all(record.levelname == "INFO" for record in caplog.records if "stranger" in record.getMessage())


def test_a_flood_of_strangers_keeps_nobody_out():
    """They come faster than they time out; the one that was there longest has to go, and a proof takes no time."""
    with Class(max_clients=3, handshake=30.0) as host:
        neighbour, where = Neighbour(host), (host.server.host, host.server.port)
        flood, over = [], threading.Event()

        def more():
            while not over.is_set():
                with contextlib.suppress(OSError):
                    flood.append(socket.create_connection(where, 5))
                time.sleep(0.002)

        thread = threading.Thread(target=more)
        thread.start()
        try:
            while len(flood) < servers.MOST_STRANGERS + 50:
                time.sleep(0.01)
            for _ in range(3):
                neighbour.go_on()
                with host.link() as link:
                    link.open(TERMS)
            links = [host.link() for _ in range(2)]
            with pytest.raises(errors.Busy, match="no free place"):
                host.link()
            for link in links:
                link.close()
            assert len(host.server._strangers) <= servers.MOST_STRANGERS
        finally:
            over.set()
            thread.join(10)
        for sock in flood:
            sock.close()
        neighbour.go_on()
        neighbour.leave()
        assert host.settled()


def test_a_machine_without_room_for_a_thread_goes_on(monkeypatch):
    from rpyc.utils import server

    with Class() as host:
        neighbour, spawn, short = Neighbour(host), server.spawn, [RuntimeError("can't start new thread")]

        def spawning(*args):
            if short:
                raise short.pop()
            return spawn(*args)

        monkeypatch.setattr(server, "spawn", spawning)
        with pytest.raises(errors.HostUnavailable):
            host.link()
        host.link().close()
        neighbour.go_on()
        neighbour.leave()
        assert host.settled()


# -- small messages, much memory --------------------------------------------------------------------


def test_a_few_bytes_do_not_claim_gigabytes():
    """Six bytes of zeros for a hundred thousand positions: refused before anything of that size is made."""
    raw = codec(ZEROS).encode(torch.zeros(256, 512, WIDTH)).payload
    assert len(raw) == 6
    with Class(Sharing(memory_mb=16.0)) as host:
        neighbour, before = Neighbour(host), resident()
        with host.link() as link:
            for policy in ("kv", "hidden"):
                session = link.open(Open(policy, ZEROS, ZEROS))
                with pytest.raises(errors.LimitExceeded, match="would take"):
                    link.step(session, Step(1, 0, 256, 512, raw))
            assert len(link.step(session, Step(2, 0, 1, 512, raw)).payload) < 2**19  # what fits is computed
        assert resident() - before < 48e6
        neighbour.go_on()
        neighbour.leave()
        assert host.settled()


@pytest.mark.parametrize(("batch", "pads"), [(5, b""), (4, bytes(16))], ids=["a row more", "pads"])
def test_what_a_step_takes_while_it_is_computed_is_bounded_too(batch, pads, monkeypatch):
    """Under policy none nothing is kept; a mask costs the square of its positions."""
    raw = [codec(ZEROS).encode(torch.zeros(count, 512, WIDTH)).payload for count in (4, batch)]
    with Class() as host, host.link() as link:
        monkeypatch.setattr(needs, "MAX_WORK", needs.working(host.body.base, host.body.info, 4, 512))
        session = link.open(Open("none", ZEROS, ZEROS))
        link.step(session, Step(1, 0, 4, 512, raw[0]))
        with pytest.raises(errors.LimitExceeded, match="to compute"):
            link.step(session, Step(2, 0, batch, 512, raw[1], pads=pads))


def brought(seed):
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=draw))[0].numpy()
    empty = torch.zeros(1, WIDTH).numpy()
    return write({"shape": 2}, empty[0], basis, empty, empty, torch.ones(1).numpy())


def test_calibrations_of_all_clients_together_are_bounded(monkeypatch):
    with Class() as host:
        links, raw = [host.link() for _ in range(3)], [brought(seed) for seed in range(6)]
        links[0].calibrate(raw[0])
        one = host.body.pool.brought
        assert one > 2 * 4 * WIDTH**2
        monkeypatch.setattr(pools, "MAX_BROUGHT", 3 * one)
        links[0].calibrate(raw[0])  # the same again takes no more
        for link, mine in zip(links[1:], raw[1:], strict=False):
            link.calibrate(mine)
        with pytest.raises(errors.LimitExceeded, match="calibrations"):
            links[0].calibrate(raw[4])
        links[2].close()
        end = time.monotonic() + 5
        while host.body.pool.brought > 2 * one and time.monotonic() < end:
            time.sleep(0.01)
        links[0].calibrate(raw[4])
        for link in links:
            link.close()
        assert host.settled()


def test_a_host_keeps_no_more_ranges_of_layers_than_it_has_to(monkeypatch):
    """Every range that somebody asks for in `hello` is a body of its own, without weights of its own."""
    monkeypatch.setattr(partial, "MOST_PARTS", 3)
    with Class() as host:
        neighbour = Neighbour(host)
        for start in range(1, 5):
            for stop in range(start + 1, 6):
                with RpycLink(host.server.address, 30.0, token=TOKEN, start=start, stop=stop) as link:
                    link.step(link.open(TERMS), Step(1, 0, 1, 1, data()))
        assert len(host.body._parts) <= 3
        neighbour.go_on()
        neighbour.leave()
        assert host.settled()


def test_curves_that_a_peer_names_do_not_pile_up():
    """A payload of a range coder names its curve, and making one takes half a megabyte."""
    from lsplit_kit.quantization.entropy import Curve, model_of

    model_of(Curve(0, 1 << 14, 0, 200, 2))
    before = resident()
    for middle in range(120):
        model_of(Curve(0, 1 << 14, middle, 200, 2))
    assert resident() - before < 40e6


# -- sessions, the queue, and what is computed together ----------------------------------------------


def test_who_fills_the_memory_loses_sessions_and_takes_none():
    """Thirty-two big sessions under one name, with a quota: the neighbour's stays."""
    with Class(Sharing(memory_mb=4.0, quota_mb=1.0)) as host:
        neighbour = Neighbour(host)
        with host.link() as link:
            sessions = [link.open(TERMS) for _ in range(64)]
            for session in sessions[:32]:
                link.step(session, Step(1, 0, 1, 100, data(100)))
                assert host.body.pool.bytes <= 1.2e6
            neighbour.go_on()
            with pytest.raises(errors.CacheMiss):
                link.step(sessions[0], Step(2, 100, 1, 1, data()))
            with pytest.raises(errors.SessionUnknown):  # another's, by its number
                link.step(10**9, Step(1, 0, 1, 1, data()))
        assert host.body.pool.evictions > 20
        neighbour.leave()
        assert host.settled()


def test_two_connections_under_one_certificate_share_a_quota_and_nothing_else(tmp_path):
    """One takes from the other; who has another name loses nothing, and numbers lead to one's own sessions only."""
    with Stage(tmp_path, Sharing(quota_mb=0.25)) as stage:
        links = [stage.link(True, name) for name in ("bo", "ann", "ann")]
        sessions = [link.open(TERMS) for link in links]
        for link, session in zip(links, sessions, strict=True):
            link.step(session, Step(1, 0, 1, 100, data(100)))
        assert sorted(owner for owner, _, size, _ in stage.body.pool.held() if size) == ["ann", "bo"]
        links[0].step(sessions[0], Step(2, 100, 1, 1, data()))
        with pytest.raises(errors.CacheMiss):
            links[1].step(sessions[1], Step(2, 100, 1, 1, data()))
        links[1].open(TERMS)
        links[2]._sessions[99] = 2  # what the host calls the other connection's second session
        with pytest.raises(errors.SessionUnknown):
            links[2].step(99, Step(1, 0, 1, 1, data()))
        for link in links:
            link.close()
        assert stage.empty()


def queued(host, count):
    end = time.monotonic() + 10
    while sum(host.turns.queued().values()) < count:
        assert time.monotonic() < end
        time.sleep(0.002)


@contextlib.contextmanager
def computing(host):
    """Something is being computed for as long as the block lasts."""
    let, inside = threading.Event(), threading.Event()

    def work():
        inside.set()
        assert let.wait(30)
        yield from ()
        return b""

    thread = threading.Thread(target=host.turns.run, args=("elsewhere", work()))
    thread.start()
    assert inside.wait(10)
    try:
        yield
    finally:
        let.set()
        thread.join(10)


def test_who_floods_the_queue_hears_busy_and_the_neighbour_is_next():
    with Class(Sharing(queue=6, queue_each=2), max_clients=12) as host:
        neighbour = Neighbour(host)
        peers = [host.attacker() for _ in range(8)]
        for peer in peers:
            peer.hello()
            peer.stream.write(told_open())
            told(peer.stream)
        with computing(host):
            for peer in peers:  # three questions each, without waiting for an answer
                peer.stream.write(b"".join(told_step(number) for number in (1, 2, 3)))
            queued(host, 6)
            later = threading.Thread(target=neighbour.link.timings)
            later.start()  # what is no step needs no turn
            later.join(5)
            assert not later.is_alive() and sum(host.turns.queued().values()) <= 6
        heard = [told(peer.stream) for peer in peers for _ in range(3)]
        assert set(heard) <= {"answer", "busy"} and heard.count("busy") >= 2 and heard.count("answer") >= 6
        for peer in peers:
            peer.close()
        neighbour.go_on()
        neighbour.leave()
        assert host.settled()


def told_open():
    return named("open", "kv", "fp32", "fp32")


def told_step(number, start=0, payload=None):
    return named("step", 1, number, start, 1, 1, data() if payload is None else payload)


@pytest.mark.parametrize("when", ["while it waits", "while it computes"])
def test_who_dies_with_a_step_under_way_leaves_nothing(when):
    with Class(Sharing(batch_window_ms=0.0)) as host:
        neighbour = Neighbour(host)
        peer = host.attacker()
        peer.hello()
        peer.stream.write(told_open() + told_step(1))
        assert [told(peer.stream), told(peer.stream)] == ["answer", "answer"]
        if when == "while it waits":
            with computing(host):
                peer.stream.write(told_step(2, 1))
                queued(host, 1)
                peer.close()
        else:
            with host.body.pool.computing:
                peer.stream.write(told_step(2, 1))
                while not host.turns._running:
                    time.sleep(0.001)
                peer.close()
        neighbour.go_on()
        neighbour.leave()
        assert host.settled()


BAD_MATES = {
    "NaN": dict(payload=data(value=float("nan"))),
    "numbers that overflow": dict(payload=data(value=3e38)),
    "another shape": dict(payload=data(2)),
    "a rollback": dict(start=1, payload=data(value=-1.0)),
    "a gap": dict(start=7),
    "another session": dict(session=9),
    "rows": dict(rows=bytes(4)),
}


@pytest.mark.parametrize("name", BAD_MATES)
def test_what_is_wrong_with_one_step_is_not_wrong_with_those_computed_beside_it(name):
    bad = dict(session=1, start=3, payload=data(), rows=b"") | BAD_MATES[name]
    with Class(Sharing(batch_window_ms=20.0)) as host:
        mates = [Neighbour(host, seed) for seed in range(3)]
        with host.link() as link:
            session = link.open(TERMS)
            link.step(session, Step(1, 0, 1, 3, data(3)))
            with computing(host):
                step = Step(2, bad["start"], 1, 1, bad["payload"], rows=bad["rows"])
                theirs = session if bad["session"] == 1 else None
                if theirs is None:
                    link._sessions[99] = bad["session"]
                link.send(theirs or 99, step)
                going = [threading.Thread(target=mate.go_on) for mate in mates]
                for thread in going:
                    thread.start()
                queued(host, 4)
            for thread in going:
                thread.join(10)
            try:
                link.receive(theirs or 99)
            except errors.LsplitError as error:
                assert error.code in ("non-finite", "codec", "cache-miss", "session", "step")
            else:
                assert name in ("a rollback", "rows", "numbers that overflow")
        assert max(host.turns.rows) >= 3
        assert {mate.at for mate in mates} == {9}
        for mate in mates:
            mate.go_on()
            mate.leave()
        assert host.settled()


def test_a_joint_computation_that_fails_is_replayed_alone(monkeypatch):
    """Nobody knows whose fault it was; a reply under way goes on, with the unsplit model's tokens."""
    ids = torch.tensor([[5, 9, 17, 40, 3]])
    options = dict(max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=[])
    want, failed, usual = model().generate(ids, **options), [], together.forward

    def forward(joints):
        if len(joints) > 1 and len(failed) < 5:
            failed.append(len(joints))
            usual(joints)  # keys and values are written before it fails
            raise MemoryError
        return usual(joints)

    with Class(Sharing(batch_window_ms=20.0)) as host:
        links, found = [host.link() for _ in range(3)], []
        splits = [lk.split(model(), head=1, tail=1, body=link) for link in links]
        monkeypatch.setattr(together, "forward", forward)
        going = [threading.Thread(target=lambda s=s: found.append(s.generate(ids, **options))) for s in splits]
        for thread in going:
            thread.start()
        for thread in going:
            thread.join(60)
        assert len(failed) >= 2 and len(found) == 3 and all(torch.equal(ids, want) for ids in found)
        for link in links:
            link.close()
        del splits
        assert host.settled()


def test_a_long_prompt_in_pieces_outlives_the_memory_of_others():
    """Between two pieces others take all the room; the session at work is not the one that gives."""
    size = 600_000
    with Class(Sharing(memory_mb=size / 1e6, prefill_piece=16)) as host:
        neighbour = Neighbour(host)
        stop, failed = threading.Event(), []

        def crowd():
            with host.link() as link:
                while not stop.is_set():
                    try:
                        session = link.open(TERMS)
                        link.step(session, Step(1, 0, 1, 64, data(64)))
                    except errors.LsplitError as err:
                        failed.append(err)

        thread = threading.Thread(target=crowd)
        thread.start()
        alone, payload = Held(model(), SplitPlan(1, 1)), data(200, 0.25)
        want = alone.step(alone.open(TERMS), Step(1, 0, 1, 200, payload))
        with host.link() as link:
            for number in range(5):
                got = link.step(link.open(TERMS), Step(number, 0, 1, 200, payload)).payload
                torch.testing.assert_close(tensor(got), tensor(want), rtol=1e-4, atol=1e-4)
        stop.set()
        thread.join(10)
        assert not failed and host.body.pool.evictions > 0
        neighbour.link.close()
        assert host.settled()
