"""Who goes away while a step waits, or between two parts of a long one: the host notices, and computes for nobody."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
import light
from light import TERMS, Light, Text
from soakers import DEAD, Stage

from lsplit_kit.remote import stream as streams
from lsplit_kit.remote.sharing import Sharing
from lsplit_kit.remote.stream import FastStream, Gone
from lsplit_kit.remote.turns import Turns
from lsplit_kit.split.pool import Pool

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(120)
DOORS, HERE = ("plain", "tls"), Path(light.__file__).resolve()


def come_true(fact):
    """Wait for a fact; nothing depends on how long it takes."""
    end = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.002)


@contextlib.contextmanager
def computing(turns):
    """Something is computed for as long as the block lasts; every step that comes meanwhile waits."""
    let, inside = threading.Event(), threading.Event()

    def work():
        inside.set()
        assert let.wait(60)
        yield from ()
        return b""

    thread = threading.Thread(target=turns.run, args=("elsewhere", work()))
    thread.start()
    assert inside.wait(10)
    try:
        yield
    finally:
        let.set()
        thread.join(10)


def record_of(stage, tmp_path, door, prompts=(12,)):
    """What a light client needs, for one of the doors."""
    path = stage.record(tmp_path / "record.json", prompts)
    record = json.loads(path.read_text("utf-8"))
    record["addresses"] = [address for address in record["addresses"] if address.startswith("rpycs") == (door == "tls")]
    path.write_text(json.dumps(record), "utf-8")
    return path, record


class Peer:
    """A client that sends a step and goes away before it is answered."""

    def __init__(self, path, record):
        self.light = Light(record["addresses"][0], record)
        self.session, self.text = self.light.call("open", *TERMS), Text.of(record["texts"][0])

    def ask(self, number=1):
        self.light._conn.ask("step", (self.session, number, 0, 1, len(self.text.up) // 256, self.text.up))

    @property
    def sock(self):
        return self.light._conn._channel.stream.sock

    def go(self, how):
        if how == "is reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, DEAD)
        if how == "says no more":
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
        else:
            self.light.close()


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("how", ["closes", "is reset", "says no more"])
@pytest.mark.parametrize("questions", [1, 3])
def test_a_step_whose_peer_went_away_leaves_the_queue_while_others_compute(tmp_path, door, how, questions):
    """With more questions of it behind, too, and it takes nobody's place: neither in the queue nor at the door."""
    with Stage(tmp_path) as stage:
        peer = Peer(*record_of(stage, tmp_path, door))
        with computing(stage.turns):
            for number in range(1, 1 + questions):
                peer.ask(number)
            come_true(lambda: sum(stage.turns.queued().values()) == 1)
            assert len(stage.body.pool.held()) == 1
            peer.go(how)
            come_true(stage.empty)
            assert stage.turns._running
        assert stage.body.pool.steps == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kills a process")
@pytest.mark.parametrize("door", DOORS)
def test_a_killed_process_leaves_the_queue_while_others_compute(tmp_path, door):
    with Stage(tmp_path) as stage:
        path, _ = record_of(stage, tmp_path, door)
        command = [sys.executable, str(HERE), str(path), "0"]
        env = {**os.environ, "PYTHONPATH": str(HERE.parent.parent)}
        with computing(stage.turns):
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env) as process:
                come_true(lambda: sum(stage.turns.queued().values()) == 1)
                process.send_signal(signal.SIGKILL)
            come_true(stage.empty)
            assert stage.turns._running
        assert stage.body.pool.steps == 0


@pytest.mark.parametrize("door", DOORS)
def test_a_long_prompt_whose_peer_went_away_stops_at_the_next_piece(tmp_path, door):
    """It is in the middle of its first piece when its peer goes; of four, one is computed."""
    pieces = []
    with Stage(tmp_path, Sharing(prefill_piece=8)) as stage:
        path, record = record_of(stage, tmp_path, door, prompts=(24,))
        stage.body.base.register_forward_hook(lambda *_: pieces.append(1))
        other, peer = Peer(path, record), Peer(path, record)  # with sessions of two, long prompts come in pieces
        with stage.body.pool.computing:
            peer.ask()
            come_true(lambda: stage.turns._running)
            peer.go("closes")
            come_true(lambda: peers_left(stage) == 1)
        come_true(lambda: len(stage.body.pool.held()) == 1)
        assert sum(pieces) == 1
        assert other.light.send(other.text)
        other.go("closes")
        assert stage.empty()


def peers_left(stage):
    """Connections whose peers are still there."""
    return sum(not FastStream.gone(Seen(sock)) for server in stage.servers for sock in list(server.clients))


class Seen:
    """What `FastStream.gone` looks at."""

    closed = False

    def __init__(self, sock):
        self.sock = sock


def test_a_peer_that_goes_on_is_not_taken_for_gone(tmp_path):
    """With unread bytes of its own in the pipe, in silence, and while it is answered."""
    with Stage(tmp_path) as stage:
        for door in DOORS:
            _, record = record_of(stage, tmp_path, door)
            peer = Light(record["addresses"][0], record)
            assert peer.send(Text.of(record["texts"][0]))
            peer.close()
        assert stage.empty() and stage.body.pool.steps == 2 * 9


@pytest.mark.parametrize("ended", [streams._ENDED, None], ids=["the system tells", "it does not"])
def test_an_end_is_seen_with_nothing_read(ended, monkeypatch):
    """Where the system does not tell, unread bytes hide the end behind them; silence and bytes are no end anywhere."""
    monkeypatch.setattr(streams, "_ENDED", ended)
    ours, theirs = socket.socketpair()
    stream = FastStream(ours)
    assert not stream.gone()
    theirs.sendall(b"more")
    come_true(lambda: stream.poll(0))
    assert not stream.gone()
    theirs.close()
    assert stream.gone() == (ended is not None)
    assert bytes(stream.read(4)) == b"more" and stream.gone()
    stream.close()
    assert stream.gone()


# -- the queue itself -------------------------------------------------------------------------------


def work(name, done, parts=1):
    for part in range(parts):
        done.append(name)
        if part + 1 < parts:
            yield None
    return name.encode()


def test_what_nobody_waits_for_is_dropped_when_its_turn_comes():
    turns, done = Turns(Pool()), []
    with pytest.raises(Gone):
        turns.run("a", work("a", done), None, lambda: True)
    assert turns.run("b", work("b", done), None, lambda: False)[0] == b"b"
    assert done == ["b"] and not turns._running


def test_a_step_in_parts_is_dropped_between_two_of_them():
    turns, done = Turns(Pool()), []
    with pytest.raises(Gone):
        turns.run("a", work("a", done, parts=5), None, lambda: len(done) == 2)
    assert done == ["a", "a"] and not turns._running


def test_a_mate_that_went_away_is_not_computed_with_the_others():
    """Three next tokens are taken together; the one whose peer is gone by then is none of them."""
    turns, done, joins, away = Turns(Pool(gather=True), window=0.0), [], object(), threading.Event()
    gone = []

    def run(name, deserted):
        try:
            turns.run(name, work(name, done), joins, deserted)
        except Gone:
            gone.append(name)

    looked = []
    with computing(turns):
        threads = [
            threading.Thread(target=run, args=(name, lambda n=name: looked.append(n) or (n == "b" and away.is_set())))
            for name in "abc"
        ]
        for thread in threads:
            thread.start()
        come_true(lambda: sum(turns.queued().values()) == 3)
        come_true(lambda: set(looked) == {"a", "b", "c"})  # each is looked after while it waits
        away.set()
    for thread in threads:
        thread.join(30)
    assert sorted(done) == ["a", "c"] and gone == ["b"] and not turns.queued()
