"""The attacks that the kit's wire was made against: a server with RPyC's defaults falls, the host does not.

The server below has default settings and three ordinary methods. Each attack is a few lines; what it wrote is then
written, byte for byte, to the kit's host, behind the token, which the other server does not even ask for.
"""

from __future__ import annotations

import contextlib
import copy
import os
import socket
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
import rpyc
from rpyc.core import brine, consts
from rpyc.core.channel import Channel
from rpyc.core.stream import SocketStream
from rpyc.utils.factory import connect_channel
from rpyc.utils.server import ThreadedServer

from lsplit_kit.models.partial import load_body
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.remote.stream import FastStream
from lsplit_kit.remote.token import prove_to_host
from lsplit_kit.wire.message import Open, Step

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))
from mutants import HELLO, frame, named

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
TOKEN = b"t" * 32
CALL, PING = consts.HANDLE_CALLATTR, consts.HANDLE_PING


class Naive(rpyc.Service):
    """What many would write: it checks its argument, keeps a copy, and shows what it has."""

    history: list = [b"mine"]

    def exposed_step(self, payload):
        if not isinstance(payload, bytes):
            raise TypeError("bytes, please")
        kept = copy.copy(payload)
        return str(type(kept))

    def exposed_history(self):
        return self.history

    def exposed_divide(self, number):
        secret = "/srv/models/of-somebody"  # noqa: F841  a local value that a traceback's source line shows
        return 1 / number


def run(server):
    server.listener.listen(8)
    threading.Thread(target=server.start, daemon=True).start()
    return server


@pytest.fixture
def naive():
    server = run(ThreadedServer(Naive, hostname="127.0.0.1", port=0))
    yield server
    server.close()


@pytest.fixture(scope="module")
def kit():
    server = run(StrictServer(service_of(load_body("toy-llama", 2, 2)), TOKEN, deadline=2.0))
    yield server
    server.close()


class Written(SocketStream):
    """A stream that keeps what was written to it."""

    def __init__(self, sock):
        super().__init__(sock)
        self.said = bytearray()

    __slots__ = ("said",)

    def write(self, data):
        self.said += data
        super().write(data)


def knock(server):
    """(a connection of stock RPyC, everything that it writes)."""
    stream = Written(socket.create_connection(("127.0.0.1", server.port), 5))
    return connect_channel(Channel(stream), config={"sync_request_timeout": 5, "allow_pickle": True}), stream


def asked(server, *frames):
    """Bytes that answer these frames, written raw."""
    with socket.create_connection(("127.0.0.1", server.port), 5) as sock:
        stream = SocketStream(sock)
        stream.write(b"".join(frames))
        return [Channel(stream).recv() for _ in frames]


def request(handler, args, label=consts.LABEL_VALUE, seq=0):
    return frame(bytes([consts.MSG_REQUEST]) + brine.dump((seq, (handler, (label, args)))))


def stands(kit, attack):
    """The kit's host answers the attack's bytes with a typed error or hangs up, and serves the next client."""
    stream = FastStream(socket.create_connection(("127.0.0.1", kit.port), 5), 5.0)
    prove_to_host(stream, TOKEN, 5)
    stream.write(named("hello", *HELLO) + bytes(attack))
    with contextlib.suppress(OSError):  # the host may have hung up already
        stream.sock.shutdown(socket.SHUT_WR)
    answers, size = [], 0
    while True:
        try:
            length = int.from_bytes(stream.read(5)[:4], "big")
            content = bytes(stream.read(length + 1)[:-1])
        except EOFError:
            break
        size += length
        answers.append((content[0], brine.load(content[1:])[1]))
    assert answers and answers[0][0] == consts.MSG_REPLY  # to hello; then to the attack
    for kind, value in answers[1:]:
        assert kind == consts.MSG_EXCEPTION and value[0] == "frame" and os.sep not in value[1]
    assert size < 4000
    with RpycLink(kit.address, 5.0, token=TOKEN) as link:
        assert len(link.step(link.open(Open("kv", "fp32", "fp32")), Step(1, 0, 1, 1, bytes(256))).payload) == 256


def test_it_listens_to_everybody_who_can_reach_the_machine(kit):
    server = ThreadedServer(Naive)
    assert server.listener.getsockname()[0] in ("0.0.0.0", "::")
    server.listener.close()
    assert kit.listener.getsockname()[0] == "127.0.0.1"
    stranger = socket.create_connection(("127.0.0.1", kit.port), 5)
    stranger.sendall(request(PING, (b"let me in",)))
    with contextlib.suppress(ConnectionResetError):
        assert stranger.recv(100) == b""
    stranger.close()


def test_amplification_by_an_operator(naive, kit):
    """Nobody exposed a method: operators of whatever a stranger brings are thought to be harmless."""
    attack = request(CALL, (b"x", "__mul__", (10_000_000,), ()))
    answer = asked(naive, attack)[0]
    assert len(attack) < 64 and len(answer) > 9_000_000
    stands(kit, attack)


def test_amplification_by_compression(naive, kit):
    content = bytes([consts.MSG_REQUEST]) + brine.dump((0, (PING, (consts.LABEL_VALUE, (bytes(20_000_000),)))))
    small = zlib.compress(content, 9)
    attack = len(small).to_bytes(4, "big") + b"\1" + small + b"\n"
    assert len(attack) < 25_000 and len(asked(naive, attack)[0]) > 19_000_000
    stands(kit, attack)


def test_amplification_by_many_small_values(naive, kit):
    """Two bytes on the wire become an object of sixty in memory."""
    attack = request(PING, ((b"ab",) * 300_000,))
    assert len(brine.load(asked(naive, attack)[0][1:])[1][1]) == 300_000
    stands(kit, attack)


def test_a_failure_tells_how_the_server_is_made(naive, kit):
    conn, wrote = knock(naive)
    with pytest.raises(ZeroDivisionError) as told:
        conn.root.divide(0)
    shown = str(told.value._remote_tb)
    assert __file__ in shown and "return 1 / number" in shown
    conn.close()
    stands(kit, wrote.said)


def test_what_is_returned_by_reference_can_be_written_to(naive, kit):
    conn, wrote = knock(naive)
    conn.root.history()[0] = b"yours"
    assert Naive.history == [b"yours"]
    Naive.history[0] = b"mine"
    conn.close()
    stands(kit, wrote.said)


RAN = []


def of_the_servers(words):
    """A function that the server's process happens to have; `os.system` would do as well."""
    RAN.append(words)


class Evil:
    """Pickled, it is a call."""

    def __reduce__(self):
        return of_the_servers, ("code of the peer's choice",)


def test_a_reference_passes_for_bytes_and_its_copy_runs_the_peers_code(naive, kit):
    """`isinstance` asks the peer; `copy` asks it for a pickle, whatever `allow_pickle` says on this side."""
    RAN.clear()
    conn, wrote = knock(naive)
    root, evil, usual = conn.root, Evil(), conn._box
    says = ("builtins.bytes", 1, id(evil))  # a reference says of itself what it is
    conn._local_objects.add(says, evil)
    conn._box = lambda obj: (consts.LABEL_REMOTE_REF, says) if obj is evil else usual(obj)
    root.step(evil)
    assert RAN == ["code of the peer's choice"]
    conn.close()
    RAN.clear()
    stands(kit, wrote.said)
    assert not RAN


def test_a_peer_that_says_half_a_frame_is_waited_for_by_one_and_not_by_the_other(naive, kit):
    """The naive server has no deadline inside a frame: the thread, and what was allocated, are the peer's."""
    half = request(PING, (b"x" * 500,))[:40]
    with socket.create_connection(("127.0.0.1", naive.port), 5) as sock:
        sock.sendall(half)
        sock.settimeout(2.5)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    stream = FastStream(socket.create_connection(("127.0.0.1", kit.port), 5), 5.0)
    prove_to_host(stream, TOKEN, 5)
    stream.write(half)
    with pytest.raises(EOFError, match="closed"):
        stream.read(1, time.monotonic() + 4)


class Puppeteer(rpyc.Service):
    """A server that uses its client: it asks back while the client waits, and raises what it likes in it."""

    def on_connect(self, conn):
        self.conn = conn

    def exposed_ask_back(self):
        return len(self.conn.sync_request(CALL, b"x", "__mul__", (1_000_000,), ()))

    def exposed_end(self):
        raise SystemExit("\x1b[2J")


def test_a_client_is_no_better_off(naive):
    """RPyC is symmetric. The kit's client: `tests/test_hostile_hosts.py`."""
    server = run(ThreadedServer(Puppeteer, hostname="127.0.0.1", port=0))
    conn, _ = knock(server)
    assert conn.root.ask_back() == 1_000_000  # the client computed it
    with pytest.raises(SystemExit, match="2J"):
        conn.root.end()
    conn.close()
    server.close()
