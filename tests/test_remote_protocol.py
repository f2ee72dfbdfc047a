"""What crosses, what is refused, and that a host goes on serving after every kind of nonsense."""

from __future__ import annotations

import errno
import gc
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest
import rpyc
from rpyc.core import brine, consts
from rpyc.core.protocol import Connection
from rpyc.utils.server import ThreadedServer

from lsplit_kit import errors
from lsplit_kit.home import home
from lsplit_kit.remote import token as tokens
from lsplit_kit.remote.brinewalk import Refused, walk
from lsplit_kit.remote.client import RpycLink, parse_address
from lsplit_kit.remote.host import host
from lsplit_kit.remote.protocol import rebuild
from lsplit_kit.remote.serve import check_bind
from lsplit_kit.remote.server import RETRY_SECONDS, StrictServer
from lsplit_kit.remote.service import info_to_wire, service_of
from lsplit_kit.remote.stream import FastStream
from lsplit_kit.split.pool import Pool
from lsplit_kit.wire.here import Loopback
from lsplit_kit.wire.message import PROTOCOL, HostInfo, Open, Step

TOKEN = bytes(range(32))
TERMS = Open("kv", "fp32", "fp32")
pytestmark = pytest.mark.timeout(30)


class Text(str):
    """Like torch's own version, a text that is not exactly str."""


class StubBody:
    """Echoes payloads; special payloads misbehave."""

    message = Step

    def __init__(self, start=2, stop=28, holds=(2, 28)):
        self.info = HostInfo(
            PROTOCOL,
            "0",
            Text("2"),
            "5",
            "stub",
            "ab" * 32,
            start,
            stop,
            4,
            "float32",
            ("fp32", "fp16"),
            16 << 20,
            1024,
            8,
            os.getpid(),
            holds,
        )
        self.sessions = {}
        self.parts = []
        self.pool, self.owner = Pool(), ""

    def prepare(self):
        pass

    def fork(self):
        return self.sub(self.info.start, self.info.stop)

    def sub(self, start, stop):
        part = StubBody(start, stop, self.info.holds)
        self.parts.append(part)
        return part

    def open(self, terms):
        number = len(self.sessions) + 100
        self.sessions[number] = terms
        return number

    def work(self, session, step):
        yield from ()
        return self.step(session, step)

    def joins(self, session, step):
        return None

    def step(self, session, step):
        if session not in self.sessions:
            raise errors.SessionUnknown("No such session.")
        if step.payload == b"miss":
            raise errors.CacheMiss("have three", have=3)
        if step.payload == b"boom":
            raise RuntimeError("/secret/path \x1b[31m")
        if step.payload == b"exit":
            raise SystemExit(3)
        if step.payload == b"list":
            return [1, 2]
        if step.payload == b"sleep":
            time.sleep(1.5)
        if step.payload == b"huge":
            return bytes(17 << 20)
        return step.payload

    def close_session(self, session):
        self.sessions.pop(session, None)

    def close(self):
        self.sessions.clear()


def load_stub(name, head, tail, dtype):
    """Stand in for load_body in a child process."""
    if name == "broken":
        raise errors.WeightsError("No such weights.")
    print("chatter on stdout while loading")
    return StubBody()


def step(payload=b"data", number=0):
    return Step(number, 0, 1, 1, payload)


@pytest.fixture
def body():
    return StubBody()


@pytest.fixture
def server(body):
    server = StrictServer(service_of(body), TOKEN, handshake=1.0, deadline=1.0, max_clients=3)
    server.listener.listen(5)
    thread = threading.Thread(target=server.start, daemon=True)
    thread.start()
    yield server
    server.close()
    thread.join(3)


def link_to(server, **kw):
    return RpycLink(server.address, kw.pop("timeout", 2.0), token=TOKEN, **kw)


def serves(server):
    """The host serves the next client."""
    end = time.monotonic() + 3
    while True:
        try:
            with link_to(server) as link:
                session = link.open(TERMS)
                assert link.step(session, step()).payload == b"data"
                return
        except errors.HostUnavailable:  # the place of the client before is not free yet
            if time.monotonic() > end:
                raise


def raw(server):
    """A socket whose owner knows the token and then does as it likes."""
    stream = FastStream(socket.create_connection((server.host, server.port), 2), 2.0)
    tokens.prove_to_host(stream, TOKEN, 2)
    return stream


def frame(data, compressed=0, size=None):
    return (len(data) if size is None else size).to_bytes(4, "big") + bytes([compressed]) + data + b"\n"


def request(handler, args, label=consts.LABEL_VALUE, seq=0):
    return frame(bytes([consts.MSG_REQUEST]) + brine.dump((seq, (handler, (label, args)))))


def ask(stream, data):
    """Send one frame, return (message kind, seq, value) of the answer."""
    stream.write(data)
    size = int.from_bytes(stream.read(5)[:4], "big")
    answer = bytes(stream.read(size + 1)[:-1])
    return answer[0], *brine.load(answer[1:])


# -- the contract with rpyc ------------------------------------------------------------------------


def test_private_rpyc_names_are_where_we_left_them():
    assert rpyc.__version__.startswith("6.0.")
    for name, args in {
        "_request_handlers": [], "_handle_ping": ["self", "data"], "_handle_close": ["self"],
        "_box": ["self", "obj"],
        "_unbox": ["self", "package"], "_box_exc": ["self", "typ", "val", "tb"],
        "_unbox_exc": ["self", "raw"],
        "_send": ["self", "msg", "seq", "args"], "_get_seq_id": ["self"],
        "_cleanup": ["self", "_anyway"],
    }.items():  # fmt: skip
        assert list(inspect.signature(getattr(Connection, name)).parameters) == args, name
    source = inspect.getsource(Connection)
    for name in ("_local_root", "_channel", "_closed", "self._HANDLERS[handler]"):
        assert name in source
    assert issubclass(rpyc.Service._protocol, Connection)
    for name in ("_accept_method", "_authenticate_and_serve_client", "_serve_client"):
        assert callable(getattr(ThreadedServer, name))


# -- the good way ----------------------------------------------------------------------------------


def test_round_trip_and_every_byte_in_the_books(server, body):
    noted = []
    link = link_to(
        server,
        start=2,
        stop=28,
        fingerprint="ab" * 32,
        dtype="float32",
        on_control=lambda *a: noted.append(a),
    )
    loop = Loopback(StubBody())
    session, twin = link.open(TERMS), loop.open(TERMS)
    up = down = 0
    for number, size in enumerate((1, 300, 70_000, 1_000_000)):
        sent = step(bytes(size), number)
        got, same = link.step(session, sent), loop.step(twin, sent)
        assert got.payload == sent.payload
        assert (
            abs(got.frame_up - same.frame_up) <= 1 and got.frame_down == same.frame_down
        )  # the session's number differs
        up, down = up + got.frame_up, down + got.frame_down
    with pytest.raises(errors.CacheMiss) as miss:
        link.step(session, step(b"miss"))
    assert miss.value.have == 3
    link.close_session(session)
    assert [kind for kind, *_ in noted] == ["hello", "open", "error", "close"]
    total = (up + sum(n[1] for n in noted), down + sum(n[2] for n in noted))
    assert link.counters()["stream"] == total
    if sys.platform == "linux" and link.tcp() is not None:
        assert link.tcp()[1] == total[1]
        assert abs(link.tcp()[0] - total[0]) <= 1  # the kernel may count the SYN
    assert link.epoch == 0
    link.close()
    link.close()
    time.sleep(0.2)
    assert not body.parts[0].sessions
    with pytest.raises(errors.HostUnavailable):
        link.open(TERMS)


def test_sessions_end_with_their_connection(server, body):
    with link_to(server) as link:
        first = link.open(TERMS)
        link._stream.sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises((errors.SessionUnknown, errors.HostUnavailable)):
            link.step(first, step())
        assert link.epoch == 1
        second = link.open(TERMS)
        assert second != first and link.step(second, step()).payload == b"data"
        with pytest.raises(errors.SessionUnknown):
            link.step(first, step())


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"boom", b"exit", b"list"])
def test_what_fails_inside_crosses_as_internal_error(server, payload, caplog):
    with link_to(server) as link:
        session = link.open(TERMS)
        with pytest.raises(errors.HostError) as failed:
            link.step(session, step(payload))
        assert "secret" not in str(failed.value) and failed.value.request_id in str(failed.value)
        assert failed.value.request_id in {getattr(record, "facts", {}).get("request") for record in caplog.records}
        assert link.step(session, step()).payload == b"data" and link.epoch == 0


def test_frames_over_the_limit_leave_the_connection_alive(server):
    with link_to(server) as link:
        session = link.open(TERMS)
        with pytest.raises(errors.LimitExceeded):
            link.step(session, step(bytes(17 << 20)))
        with pytest.raises(errors.LimitExceeded):
            link.step(session, step(b"huge"))
        assert link.step(session, step()).payload == b"data" and link.epoch == 0


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"start": 0, "stop": 30}, errors.FingerprintMismatch, r"\[0, 30\).*\[2, 28\)"),
        ({"fingerprint": "cd" * 32}, errors.FingerprintMismatch, "cdcd.*abab"),
        ({"dtype": "bfloat16"}, errors.FingerprintMismatch, "bfloat16.*float32"),
    ],
)
def test_mismatches_name_both_sides(server, asked, error, words):
    with pytest.raises(error, match=words):
        link_to(server, **asked)
    serves(server)


def test_other_protocol_is_refused(server, monkeypatch):
    monkeypatch.setattr("lsplit_kit.remote.client.PROTOCOL", "2.0")
    with pytest.raises(errors.VersionMismatch, match=r"2\.0.*1\.1"):
        link_to(server)


def test_sub_range(server):
    with link_to(server, start=4, stop=20) as link:
        assert (link.info.start, link.info.stop, link.info.holds) == (4, 20, (2, 28))


def test_rebuild_never_trusts_the_peer():
    assert type(rebuild("SystemExit", "x", "1", 0)) is errors.HostError
    assert type(rebuild("host-timeout", "x", "1", 0)) is errors.HostError
    assert "\x1b" not in str(rebuild("frame", "\x1b[31mred", "1", 0))


# -- strangers -------------------------------------------------------------------------------------


def test_wrong_token_and_no_token(server, monkeypatch, tmp_path):
    with pytest.raises(errors.AuthError):
        RpycLink(server.address, 2, token=bytes(32))
    monkeypatch.setenv("LSPLIT_HOME", str(tmp_path))
    monkeypatch.delenv("LSPLIT_TOKEN_FILE", raising=False)
    with pytest.raises(errors.AuthError, match="LSPLIT_TOKEN_FILE"):
        RpycLink(server.address, 2)
    path = tokens.write_token("127.0.0.1", server.port, TOKEN)
    assert path.parent == tmp_path / "hosts" and path.stat().st_mode & 0o777 == 0o600
    RpycLink(f"rpyc://localhost:{server.port}", 2).close()
    path.chmod(0o644)
    with pytest.raises(errors.AuthError, match="open to others"):
        RpycLink(server.address, 2)
    elsewhere = path.rename(tmp_path / "copy")
    monkeypatch.setenv("LSPLIT_TOKEN_FILE", str(elsewhere))
    RpycLink(server.address, 2).close()


def test_one_cache_folder_for_weights_and_tokens(monkeypatch, tmp_path):
    monkeypatch.delenv("LSPLIT_HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tokens.token_folder() == home() / "hosts"
    if sys.platform == "linux":
        assert tokens.token_folder() == tmp_path / "lsplit-kit" / "hosts"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert tokens.token_folder() == tmp_path / "lsplit-kit" / "hosts"
    monkeypatch.setenv("LSPLIT_HOME", str(tmp_path / "own"))
    assert tokens.token_folder() == tmp_path / "own" / "hosts"


def test_only_token_files_of_dead_hosts_here_are_swept(server, monkeypatch, tmp_path):
    monkeypatch.setenv("LSPLIT_HOME", str(tmp_path))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # nobody listens on it, and nobody else takes it meanwhile
        stays = [tokens.write_token("127.0.0.1", server.port, TOKEN), tokens.write_token("192.0.2.1", 7, TOKEN)]
        odd = tmp_path / "hosts" / "note.token"
        odd.write_text("not ours")
        goes = tokens.write_token("127.0.0.1", sock.getsockname()[1], TOKEN)
        assert tokens.sweep_tokens() == [goes]
    assert not goes.exists() and all(path.exists() for path in [*stays, odd])
    serves(server)


def test_host_with_the_wrong_token_is_noticed():
    a, b = socket.socketpair()
    thread = threading.Thread(
        target=lambda: pytest.raises(EOFError, tokens.prove_to_client, FastStream(b, 1), bytes(32), 1)
    )
    thread.start()
    with pytest.raises(errors.AuthError):
        tokens.prove_to_host(FastStream(a, 1), TOKEN, 1)
    a.close()
    thread.join(2)


def test_plain_rpyc_client_gets_nothing(server):
    conn = rpyc.connect(server.host, server.port, config={"sync_request_timeout": 2})
    began = time.monotonic()
    with pytest.raises(EOFError):
        _ = conn.root
    assert time.monotonic() - began < 1.9
    serves(server)


def test_the_house_may_be_full_of_clients(server):
    links = [link_to(server) for _ in range(3)]
    with pytest.raises(errors.Busy, match="no free place") as full:
        link_to(server)
    assert full.value.retry_after == RETRY_SECONDS
    for link in links:
        link.close()
    serves(server)


def test_silent_strangers_take_no_place_and_are_sent_away(server):
    silent = [socket.create_connection((server.host, server.port), 2) for _ in range(10)]
    serves(server)
    for sock in silent:
        sock.settimeout(2)
        assert sock.recv(1) == b""  # at the handshake's deadline
        sock.close()
    serves(server)


def test_dead_host():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(errors.HostUnavailable, match="start one"):
        RpycLink(f"rpyc://127.0.0.1:{port}", 2, token=TOKEN)


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:1", "http://a:1", "rpyc://a", "rpyc://a:x", "rpyc://a:99999", "rpyc://u@a:1", None],
)
def test_addresses(address):
    with pytest.raises(ValueError, match="rpyc://"):
        parse_address(address)
    assert parse_address("rpyc://[::1]:7") == ("::1", 7)


# -- a client that knows the token and breaks the rules --------------------------------------------


HELLO = (PROTOCOL, "0", "0", "0", "", -1, -1, "")


@pytest.mark.parametrize("bad", [
    request(consts.HANDLE_CALLATTR, (None, "get_service_name", (), ())),
    request(consts.HANDLE_CALLATTR, (None, "__init__", (), ())),
    request(consts.HANDLE_CALLATTR, (None, b"step", (), ())),
    request(consts.HANDLE_CALLATTR, (None, "open", ("kv", "fp32", "fp32"), ())),  # before hello
    request(consts.HANDLE_CALLATTR, (None, "hello", (*HELLO[:5], True, -1, ""), ())),  # a bool is no int
    request(consts.HANDLE_CALLATTR, (None, "hello", HELLO, ("a", 1))),
    request(consts.HANDLE_CALLATTR, ()),
    *(request(handler, (None,)) for handler in range(3, 21) if handler != consts.HANDLE_CALLATTR),
    request(99, ()),
    request(consts.HANDLE_PING, ()),
    request(consts.HANDLE_PING, ("x", "y")),
    request(consts.HANDLE_CLOSE, ("x",)),
    request(consts.HANDLE_CALLATTR, ("builtins.object", 1, 2), label=consts.LABEL_REMOTE_REF),
    request(consts.HANDLE_CALLATTR, 5, label=consts.LABEL_LOCAL_REF),
])  # fmt: skip
def test_refused_and_alive(server, bad):
    stream = raw(server)
    kind, seq, value = ask(stream, bad)
    assert (kind, seq) == (consts.MSG_EXCEPTION, 0) and value[0] == "frame" and value[3] == 0
    kind, _, value = ask(stream, request(consts.HANDLE_CALLATTR, (None, "hello", HELLO, ())))
    assert kind == consts.MSG_REPLY and len(value[1]) == 16
    stream.close()


def deep(levels):
    value = ()
    for _ in range(levels):
        value = (value,)
    return value


@pytest.mark.parametrize(
    "bad",
    [
        frame(b"x" * 50, compressed=1),
        frame(b"", size=2**31),
        frame(b"", size=0),
        frame(b"\x01" + b"\x15\xff\xff\xff\xff" + b"\x02" * 40),  # a tuple of 4 billion, says the tag
        frame(b"\x01" + brine.dump((b"ab",) * 17)),
        frame(b"\x01" + brine.dump(deep(7))),
        frame(b"\x01" + brine.dump(tuple((b"",) * 16 for _ in range(5)))),
        frame(b"\x01" + brine.dump((0, 1.5))),
        frame(b"\x01" + brine.dump((0, frozenset((1,))))),
        frame(b"\x01" + brine.dump((0, 10**300))),
        frame(b"\x01" + brine.dump((0, "a" * 5000))),
        frame(b"\x01" + brine.dump((0, 1)) + b"\x00"),
        frame(b"\x01" + brine.dump(7)),
        frame(b"\x07" + brine.dump((0, 1))),
        frame(b"\x02" + brine.dump((0, (1, 1)))),  # an answer nobody asked for
        b"\x00\x00\x00\x64\x00abc",  # and then nothing: a stall inside a frame
        b"\x00\x00",
    ],
)
def test_broken_frames_end_their_connection_only(server, bad):
    stream = raw(server)
    began = time.monotonic()
    stream.write(bad)
    with pytest.raises(EOFError):
        stream.read(1, began + 2.5)
    if bad != b"\x00\x00":  # not yet a frame either, but the deadline runs from its first byte
        assert time.monotonic() - began < 2.4
    serves(server)


def test_walk_takes_what_brine_makes_of_primitives():
    for value in (
        None,
        True,
        (),
        b"",
        "",
        "a",
        "é" * 300,
        -48,
        159,
        160,
        -(2**63),
        b"x" * 70_000,
        ((1, ("s", b"b")), ()),
    ):
        walk(memoryview(brine.dump(value)))
    for raw_bytes in (b"", b"\x0b", b"\x08\x00", b"\x08\x0a\xff", b"\x16\x02-x", b"\x0f\xff\xff\xff\xff"):
        with pytest.raises(Refused):
            walk(memoryview(raw_bytes))


# -- a host that breaks the rules ------------------------------------------------------------------


class BadHost:
    """Says hello properly, then answers the next call with given bytes."""

    def __init__(self, answer, hello=True):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"rpyc://127.0.0.1:{self.listener.getsockname()[1]}"
        self.answer, self.hello, self.held = answer, hello, []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                stream = FastStream(self.listener.accept()[0], 5)
            except OSError:
                return
            self.held.append(stream)
            try:
                tokens.prove_to_client(stream, TOKEN, 2)
                if self.hello:
                    self.take(stream)
                    info = StubBody().info
                    good = info_to_wire(info)
                    stream.write(frame(b"\x02" + brine.dump((0, (consts.LABEL_VALUE, good)))))
                self.take(stream)
                stream.write(self.answer)
            except (EOFError, errors.AuthError):
                pass

    def take(self, stream):
        stream.read(int.from_bytes(stream.read(5)[:4], "big") + 1)


def reply(value, seq=1, label=consts.LABEL_VALUE, kind=consts.MSG_REPLY):
    return frame(bytes([kind]) + brine.dump((seq, (label, value) if label is not None else value)))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(("builtins.list", 1, 2), label=consts.LABEL_REMOTE_REF), errors.FrameError),
        (reply(((1, 2),), label=consts.LABEL_TUPLE), errors.FrameError),
        (reply(b"not a number"), errors.FrameError),
        (reply(True), errors.FrameError),
        (reply(5, seq=9), errors.FrameError),
        (frame(b"\x02" + brine.dump(7)), errors.FrameError),
        (frame(b"\x09" + brine.dump((1, 7))), errors.FrameError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3, errors.FrameError),
        (frame(b"\x00" * 20, compressed=1), errors.FrameError),
        (frame(b"\x02" + brine.dump((1, (1, (b"ab",) * 17)))), errors.FrameError),
        (request(consts.HANDLE_CALLATTR, (None, "hello", (), ())), errors.FrameError),  # a call-back
        (request(consts.HANDLE_PING, ("x",)), errors.FrameError),
        (
            reply((("builtins", "SystemExit"), (), (), ""), label=None, kind=consts.MSG_EXCEPTION),
            errors.FrameError,
        ),
        (reply(("system-exit", "x", "id", 0), label=None, kind=consts.MSG_EXCEPTION), errors.HostError),
        (reply(5)[:-3], errors.HostTimeout),
        (b"", errors.HostTimeout),
    ],
)
def test_a_bad_host_is_a_typed_error_within_the_deadline(answer, error):
    bad = BadHost(answer)
    with RpycLink(bad.address, 1.0, token=TOKEN) as link:
        began = time.monotonic()
        with pytest.raises(error) as caught:
            link.open(TERMS)
        assert type(caught.value) is error and time.monotonic() - began < 1.8
        assert link.epoch == (0 if error is errors.HostError else 1)
    bad.listener.close()


@pytest.mark.parametrize("answer", [reply((1, 2), seq=0), reply(("x",) * 16, seq=0), reply(3, seq=0)])
def test_a_bad_hello(answer):
    bad = BadHost(answer, hello=False)
    with pytest.raises(errors.FrameError):
        RpycLink(bad.address, 1.0, token=TOKEN)
    bad.listener.close()


@pytest.fixture
def interruptible():
    """Ctrl-C as at a prompt: a worker process of parallel tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_and_timeout_make_a_fresh_connection(server, interruptible):
    with link_to(server, timeout=1.0) as link:
        session = link.open(TERMS)
        with pytest.raises(errors.HostTimeout):
            link.step(session, step(b"sleep"))
        assert link.epoch == 1
        time.sleep(0.7)
        session = link.open(TERMS)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            link.step(session, step(b"sleep"))
            time.sleep(1)
        assert link.epoch == 2
        time.sleep(1.3)
        session = link.open(TERMS)
        assert link.step(session, step()).payload == b"data"


def test_close_from_another_thread_ends_the_wait(server):
    link = link_to(server, timeout=5.0)
    session = link.open(TERMS)
    threading.Timer(0.2, link.close).start()
    began = time.monotonic()
    with pytest.raises(errors.HostUnavailable):
        link.step(session, step(b"sleep"))
    assert time.monotonic() - began < 1.4


def test_idle_connections_end_and_the_link_comes_back(body):
    server = StrictServer(service_of(body), TOKEN, idle=0.2)
    server.listener.listen(5)
    threading.Thread(target=server.start, daemon=True).start()
    with link_to(server) as link:
        session = link.open(TERMS)
        time.sleep(0.6)
        with pytest.raises(errors.SessionUnknown):
            link.step(session, step())
        assert link.step(link.open(TERMS), step()).payload == b"data" and link.epoch == 1
    server.close()


def test_ping_is_answered(server):
    stream = raw(server)
    answer = ask(stream, request(consts.HANDLE_PING, ("hello",), seq=7))
    assert answer == (consts.MSG_REPLY, 7, (consts.LABEL_VALUE, "hello"))
    stream.close()


# -- what a hostile peer tried ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [(8, (1, b"x" * 300)), (1, (1, b"x" * 300)), (8, b"ab"), (8, (1, None))])
def test_bytes_become_no_argument_list(server, value):
    stream = raw(server)
    kind, _, failure = ask(stream, frame(bytes([consts.MSG_REQUEST]) + brine.dump((3, value))))
    assert kind == consts.MSG_EXCEPTION and failure[0] in ("frame", "host-error") and "x" * 9 not in failure[1]
    stream.close()
    serves(server)


@pytest.mark.parametrize("value", [b"ab", (1, 2, 3), (b"a", (8, (1, ()))), (True, (8, (1, ()))), (1, b"ab")])
def test_a_question_without_its_form_ends_the_connection(server, value):
    stream = raw(server)
    with pytest.raises(EOFError):
        ask(stream, frame(bytes([consts.MSG_REQUEST]) + brine.dump(value)))
    serves(server)


def test_a_refused_request_leaves_nothing_in_memory(server, monkeypatch):
    """Without the cyclic garbage collector: a kept traceback would hold the frame and its payload."""
    seen = []

    class Held:
        pass

    def refuse(self, session, step):
        held = Held()
        seen.append(weakref.ref(held))
        raise errors.CodecError("no")

    monkeypatch.setattr(StubBody, "step", refuse)
    gc.collect()
    gc.disable()
    try:
        with link_to(server) as link:
            session = link.open(TERMS)
            for number in range(3):
                with pytest.raises(errors.CodecError):
                    link.step(session, step(number=number))
            end = time.monotonic() + 5
            while any(ref() is not None for ref in seen) and time.monotonic() < end:
                time.sleep(0.01)  # the host's thread lets go a moment after it answered
        assert len(seen) == 3 and all(ref() is None for ref in seen)
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_share_the_connection(server):
    link = link_to(server)
    session = link.open(TERMS)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            link.step(session, step())
        except errors.SessionUnknown:
            status = 0 if link.step(link.open(TERMS), step(b"child")).payload == b"child" else 2
        finally:
            link.close()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert link.step(session, step(b"parent")).payload == b"parent" and link.epoch == 0
    link.close()


def test_close_while_dialling_closes(server, monkeypatch):
    link = link_to(server)
    link._discard()
    dial = socket.create_connection

    def closing(*args, **kwargs):
        link._closed = True
        return dial(*args, **kwargs)

    monkeypatch.setattr("lsplit_kit.remote.client.socket.create_connection", closing)
    with pytest.raises(errors.HostUnavailable, match="closed"):
        link.open(TERMS)
    assert link._conn is None


def test_no_draft_of_a_token_stays_when_the_disk_is_full(homely, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokens.os, "replace", full)
    with pytest.raises(OSError, match="space"):
        tokens.write_token("127.0.0.1", 7, TOKEN)
    assert not list((homely / "hosts").iterdir())


def test_a_host_short_of_descriptors_goes_on(server):
    listener, short = server.listener, [OSError(errno.EMFILE, "Too many open files")] * 2

    class Listener:
        def __getattr__(self, name):
            return getattr(listener, name)

        def accept(self):
            if short:
                raise short.pop()
            return listener.accept()

    server.listener = Listener()
    link_to(server).close()  # what the thread was already waiting for
    serves(server)
    assert not short


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e9, "1", True, None])
def test_seconds_are_seconds(server, timeout):
    with pytest.raises(errors.UnsupportedOption, match="seconds"):
        link_to(server, timeout=timeout)
    with pytest.raises(errors.UnsupportedOption, match="seconds"):
        StrictServer(service_of(StubBody()), TOKEN, idle=timeout)
    serves(server)


@pytest.mark.parametrize("name", ["my..host", "a" * 70])
def test_a_name_that_no_machine_can_have(name):
    with pytest.raises(errors.FrameError, match="names no machine"):
        RpycLink(f"rpyc://{name}:1234", 2, token=TOKEN)


def test_what_a_host_calls_itself_cannot_write_on_the_terminal(server, body):
    body.info = body.info._replace(model="\x1b]0;pwned\x07\x1b[2J\n\n fake")
    with link_to(server) as link:
        assert "\x1b" not in repr(link) and "\x07" not in repr(link) and len(repr(link).splitlines()) == 4


def test_bind():
    check_bind("127.0.0.1", False)
    check_bind("::1", False)
    for bind in ("0.0.0.0", "", "example.org"):
        with pytest.raises(errors.UnsupportedOption, match="allow-remote"):
            check_bind(bind, False)


# -- the child process -----------------------------------------------------------------------------


def gone(pid, seconds=8.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
                return True  # ended; only nobody has collected it yet
        except OSError:
            pass
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.fixture
def homely(monkeypatch, tmp_path):
    monkeypatch.setenv("LSPLIT_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return tmp_path


@pytest.mark.timeout(60)
def test_child_serves_and_leaves_nothing(homely):
    with host("stub", loader="test_remote_protocol:load_stub", start_seconds=50) as child:
        assert child.running and child.holds == (2, 28)
        with RpycLink(child.address, 5) as link:
            assert link.info.pid == child.pid
            assert link.step(link.open(TERMS), step()).payload == b"data"
        end = time.monotonic() + 10
        while "chatter" not in child.stderr():  # a thread of ours reads it when the pipe brings it
            assert time.monotonic() < end
            time.sleep(0.02)
        assert list((homely / "hosts").iterdir())
    assert gone(child.pid, 1) and not list((homely / "hosts").iterdir())
    child.close()


@pytest.mark.timeout(60)
def test_child_that_cannot_start(homely):
    with pytest.raises(errors.WeightsError, match="No such weights"):
        host("broken", loader="test_remote_protocol:load_stub", start_seconds=50)


@pytest.mark.timeout(60)
def test_child_ends_when_its_parent_is_killed(homely):
    code = (
        "import time\nfrom lsplit_kit.remote.host import host\n"
        "h = host('stub', loader='test_remote_protocol:load_stub', start_seconds=50)\n"
        "print(h.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait(5)
    assert gone(pid)
    parent.stdout.close()
