"""TLS with real certificates: who is let in, what a person is told, and that the frames are those of the plain wire."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
import torch
from rpyc.core import brine, consts
from transformers import StoppingCriteria

import lsplit_kit as lk
from lsplit_kit import errors
from lsplit_kit.models.partial import load_body
from lsplit_kit.remote import serve
from lsplit_kit.remote import token as tokens
from lsplit_kit.remote.address import address_of, parse_address
from lsplit_kit.remote.authority import Authority
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.gate import Gate
from lsplit_kit.remote.protocol import PrimitiveService
from lsplit_kit.remote.relay import Relay
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import info_to_wire, service_of
from lsplit_kit.remote.stream import FastStream
from lsplit_kit.remote.tls import LOOPBACK, MODES, Ticket
from lsplit_kit.wire.events import NOTICE, log
from lsplit_kit.wire.message import PROTOCOL, HostInfo, Open

TOKEN = bytes(range(32))
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
PROMPT = torch.randint(5, 90, (1, 37), generator=torch.Generator().manual_seed(0))
HELLO = (PROTOCOL, "0", "0", "0", "", -1, -1, "")
TERMS = Open("kv", "fp32", "fp32")
pytestmark = pytest.mark.timeout(60)


class Echo(PrimitiveService):
    """Answers `echo(bytes)` with the same bytes, `nap(ms)` later, and `who()` with the peer's name."""

    WIRE_METHODS = frozenset({"hello", "echo", "nap", "who"})

    def on_connect(self, conn):
        self.name = conn._config["credentials"]

    def exposed_hello(self, *_):
        return info_to_wire(HostInfo(PROTOCOL, "0", "", "", "echo", "", 0, 1, 1, "", (), 16 << 20, 1, 1, 0, (0, 1)))

    def exposed_echo(self, payload):
        return payload

    def exposed_nap(self, ms):
        time.sleep(ms / 1000)
        return b"awake"

    def exposed_who(self):
        return self.name


@contextlib.contextmanager
def serving(service, folder=None, mode="certificate", **options):
    """A server of this process, in a thread; without a folder it speaks no TLS."""
    gate = Gate(folder, mode) if folder else None
    options = dict(handshake=5.0, deadline=5.0, max_clients=8) | options
    server = StrictServer(service, TOKEN, gate=gate, **options)
    server.listener.listen(20)
    thread = threading.Thread(target=server.start, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(3)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A class with every kind of bundle, good and bad, made by the authority itself, and another class beside it."""
    folder = tmp_path_factory.mktemp("room")
    ours, theirs = Authority(NOW - DAY, NOW + DAY), Authority(NOW - DAY, NOW + DAY)
    for name, content in {
        "ann": ours.issue("ann"), "bo": ours.issue("bo"), "late": ours.issue("late", ends=NOW - DAY / 2),
        "ca": ours.pem, "ca-theirs": theirs.pem, "eve": theirs.issue("eve"), "host": ours.issue("host", LOOPBACK),
        "expired/host": ours.issue("host", LOOPBACK, NOW - DAY / 2), "other/host": ours.issue("host", ["example.org"]),
        "theirs/host": theirs.issue("host", LOOPBACK), "impostor/host": ours.issue("ann"),
    }.items():  # fmt: skip
        path = folder / f"{name}.pem"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def echo(room):
    with serving(Echo, room) as server:
        yield server


@pytest.fixture(scope="module")
def toy():
    return lk.load("toy-llama")[0]


@pytest.fixture(scope="module")
def body_server(room):
    with serving(service_of(load_body("toy-llama", 2, 2, "float32")), room) as server:
        yield server


def facts(caplog, **asked):
    """The events of the host's log that have these facts, the name of each among them."""
    found = [{"event": record.getMessage(), **getattr(record, "facts", {})} for record in caplog.records]
    return [one for one in found if asked.items() <= one.items()]


def link_to(server, room, name="ann", **options):
    return RpycLink(server.address, options.pop("timeout", 5.0), certificate=room / f"{name}.pem", **options)


def echoed(link, payload=b"data"):
    return link._call("echo", (payload,), (bytes,))[0] == payload


def serves(server, room):
    """The host serves the next client; the place of the one before may not be free yet."""
    end = time.monotonic() + 3
    while True:
        try:
            with link_to(server, room) as link:
                assert echoed(link)
                return
        except errors.HostUnavailable:
            if time.monotonic() > end:
                raise


def raw(server, room, name="ann"):
    """The TLS socket of somebody with a good certificate, who then does as they like."""
    sock = socket.create_connection(("127.0.0.1", server.port), 5)
    return Ticket(room / f"{name}.pem").enter(sock, "127.0.0.1", server.address)[0]


def frame(kind, value):
    data = bytes([kind]) + brine.dump(value)
    return len(data).to_bytes(4, "big") + b"\0" + data + b"\n"


def request(name, args, seq):
    return frame(consts.MSG_REQUEST, (seq, (consts.HANDLE_CALLATTR, (consts.LABEL_VALUE, (None, name, args, ())))))


def answer(stream):
    size = int.from_bytes(stream.read(5)[:4], "big")
    return brine.load(bytes(stream.read(size + 1))[1:-1])


# -- the same wire, inside TLS ---------------------------------------------------------------------


def test_tokens_are_those_of_the_unsplit_model_and_every_byte_is_in_the_books(body_server, room, toy):
    lm = lk.split(toy, body=body_server.address, certificate=room / "ann.pem")
    with lk.tap(lm) as wire:
        tokens_out = lm.generate(PROMPT, max_new_tokens=12, do_sample=False)
    assert torch.equal(tokens_out, toy.generate(PROMPT, max_new_tokens=12, do_sample=False))
    assert wire.counters()["stream"] == tuple(wire.totals()["frame"])
    if "tcp" in wire.counters():
        assert all(sealed > told for sealed, told in zip(*(wire.counters()[k] for k in ("tcp", "stream")), strict=True))
    plain = lk.split(toy, body="loopback")
    with lk.tap(plain) as same:
        plain.generate(PROMPT, max_new_tokens=12, do_sample=False)
    frames = [t.ledger().query("kind == 'step'")["frame"].to_list() for t in (same, wire)]
    assert frames[0] == frames[1]
    lm.close()


def test_logits_are_bit_equal(body_server, room, toy):
    lm = lk.split(toy, body=body_server.address, certificate=str(room / "ann.pem"))
    assert torch.equal(lm(PROMPT).logits, toy(PROMPT).logits)
    lm.close()


def test_a_prompt_in_pieces_goes_up_over_tls(body_server, room, toy):
    lm = lk.split(toy, body=body_server.address, certificate=room / "ann.pem", chunk=5)
    with lk.tap(lm) as wire:
        tokens_out = lm.generate(PROMPT, max_new_tokens=6, do_sample=False)
    assert torch.equal(tokens_out, toy.generate(PROMPT, max_new_tokens=6, do_sample=False))
    assert wire.counters()["stream"] == tuple(wire.totals()["frame"])
    lm.close()


def test_a_connection_that_breaks_is_made_again_and_the_session_replayed(body_server, room, toy):
    lm = lk.split(toy, body=body_server.address, certificate=room / "ann.pem")

    class Cut(StoppingCriteria):
        calls = 0

        def __call__(self, input_ids, scores, **options):
            self.calls += 1
            if self.calls == 3:
                lm.link._stream.sock.shutdown(socket.SHUT_RDWR)
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    with lk.tap(lm) as wire:
        tokens_out = lm.generate(PROMPT, max_new_tokens=8, do_sample=False, stopping_criteria=[Cut()])
    assert torch.equal(tokens_out, toy.generate(PROMPT, max_new_tokens=8, do_sample=False))
    assert lm.link.epoch == 1 and "replay" in set(wire.ledger()["kind"])
    lm.close()


def test_frames_of_any_size_cross_and_are_counted(echo, room):
    noted = []
    with link_to(echo, room, on_control=lambda *note: noted.append(note)) as link:
        (_, up, down), asked = noted[0], []
        for seq, size in enumerate((0, 1, 255, (1 << 14) - 40, 1 << 14, (1 << 14) + 1, 100_000, 5_000_000), 1):
            payload = random.Random(size).randbytes(size)
            value, *sizes = link._call("echo", (payload,), (bytes,))
            back = frame(consts.MSG_REPLY, (seq, (consts.LABEL_VALUE, payload)))
            assert value == payload and sizes == [len(request("echo", (payload,), seq)), len(back)]
            asked.append(sizes)
        assert link.counters()["stream"] == (up + sum(a for a, _ in asked), down + sum(b for _, b in asked))
        assert link.epoch == 0


def test_two_full_directions_do_not_wait_for_each_other(echo, room):
    payload = random.Random(1).randbytes(3 << 20)
    with link_to(echo, room, timeout=30.0) as link:
        for _ in range(10):
            link._ask("echo", (payload,))
        assert all(link._answer((bytes,))[0] == payload for _ in range(10)) and link.epoch == 0


def test_two_questions_in_one_record_are_both_answered(echo, room):
    with raw(echo, room) as tls:
        stream = FastStream(tls, 5.0)
        stream.write(request("hello", HELLO, 0))
        assert answer(stream)[0] == 0
        assert tls.send(request("echo", (b"one",), 1) + request("echo", (b"two",), 2)) < 1 << 14
        assert [answer(stream)[1][1] for _ in range(2)] == [b"one", b"two"]


@pytest.fixture
def tls_host(room):
    """Starts one thread that serves one connection over TLS as it is told, and returns its address."""
    doors = []

    def start(talk, tickets=0, alpn=("lsplit-certificate/1",), folder="", highest=ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = highest
        context.load_cert_chain(room / folder / "host.pem")
        context.num_tickets = tickets
        if alpn:
            context.set_alpn_protocols(list(alpn))
        door = socket.create_server(("127.0.0.1", 0))
        doors.append(door)

        def serve():
            with contextlib.suppress(OSError, EOFError):
                sock, _ = door.accept()
                with context.wrap_socket(sock, server_side=True) as tls:
                    talk(tls)

        threading.Thread(target=serve, daemon=True).start()
        return address_of("127.0.0.1", door.getsockname()[1], tls=True)

    yield start
    for door in doors:
        door.close()


def greet(stream):
    """Answer hello as a host does."""
    stream.read(int.from_bytes(stream.read(5)[:4], "big") + 1)
    stream.write(frame(consts.MSG_REPLY, (0, (consts.LABEL_VALUE, Echo().exposed_hello()))))


def test_two_answers_in_one_record_are_both_read(tls_host, room):
    def talk(tls):
        stream = FastStream(tls, 5)
        greet(stream)
        for _ in range(2):
            stream.read(int.from_bytes(stream.read(5)[:4], "big") + 1)
        tls.send(b"".join(frame(consts.MSG_REPLY, (n, (consts.LABEL_VALUE, b"%d" % n))) for n in (1, 2)))
        stream.read(1)

    with RpycLink(tls_host(talk), 5.0, certificate=room / "ann.pem") as link:
        link._sessions[1] = 1
        link._ask("echo", (b"",), 1)
        link._ask("echo", (b"",), 1)
        assert link.receive(1).payload == b"1"
        assert link.ready(1) and link.receive(1).payload == b"2"


def test_what_tls_itself_sends_is_no_end_of_the_connection(tls_host, room):
    """Session tickets make the socket readable without a byte for us."""

    def talk(tls):
        stream = FastStream(tls, 5)
        greet(stream)
        stream.read(int.from_bytes(stream.read(5)[:4], "big") + 1)
        stream.write(frame(consts.MSG_REPLY, (1, (consts.LABEL_VALUE, b"ok"))))
        stream.read(1)

    with RpycLink(tls_host(talk, tickets=4), 5.0, certificate=room / "ann.pem") as link:
        link._drop_if_dead()
        assert link._call("echo", (b"",), (bytes,))[0] == b"ok" and link.epoch == 0


# -- who is let in, and what a person is told ------------------------------------------------------


@pytest.mark.parametrize(
    ("bundle", "words"),
    [
        ("eve", "not of the class of .*eve.pem"),
        ("late", "refused your certificate .*late.pem: it has expired"),
        ("host", "refused your certificate .*host.pem: it is not a student's"),
        ("ca", "ca.pem holds no key.* asks for a certificate.*LSPLIT_CERTIFICATE"),
        ("none", "none.pem cannot be read: No such file"),
    ],
)
def test_the_wrong_bundle_is_said_to_be_wrong(echo, room, bundle, words):
    with pytest.raises(errors.AuthError, match=words) as caught:
        link_to(echo, room, bundle)
    assert str(caught.value).count(". ") == 0
    serves(echo, room)


def test_no_bundle_at_all(echo, room, monkeypatch):
    monkeypatch.delenv("LSPLIT_CERTIFICATE", raising=False)
    with pytest.raises(errors.AuthError, match='certificate="student-07.pem" .*, or set LSPLIT_CERTIFICATE'):
        RpycLink(echo.address, 5)
    monkeypatch.setenv("LSPLIT_CERTIFICATE", str(room / "ann.pem"))
    with RpycLink(echo.address, 5) as link:
        assert echoed(link) and "TLS 1.3, ann.pem" in repr(link)


def test_a_bundle_of_a_class_that_the_host_does_not_know(echo, room, tmp_path):
    """It trusts the host, and shows a certificate of another authority: only the first read tells."""
    mixed = tmp_path / "mixed.pem"
    text = (room / "eve.pem").read_text()
    mixed.write_text(text[: text.rindex("-----BEGIN CERTIFICATE")] + (room / "ca.pem").read_text())
    with pytest.raises(errors.AuthError, match="does not know the authority of your certificate"):
        RpycLink(echo.address, 5, certificate=mixed)
    serves(echo, room)


def test_a_client_that_shows_no_certificate_hears_so_with_its_first_read(echo, room):
    context = Ticket(room / "ca.pem").context
    with (
        socket.create_connection(("127.0.0.1", echo.port), 5) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        with pytest.raises(ssl.SSLError) as caught:
            tls.recv(1)
        said = Ticket(room / "ann.pem").explain(caught.value, "localhost", echo.address)
    assert isinstance(said, errors.AuthError) and "asks for a certificate" in str(said)
    serves(echo, room)


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("expired", "has a certificate that has expired; make a new class"),
        ("other", "has a certificate for other names than 127.0.0.1; .*--host 127.0.0.1"),
        ("theirs", "not of the class of .*ann.pem"),
        ("impostor", "shows a certificate that is not a host's"),
    ],
)
def test_a_wrong_host_is_said_to_be_wrong(tls_host, room, folder, words):
    seen = []
    with pytest.raises(errors.AuthError, match=words):
        RpycLink(tls_host(lambda tls: seen.append(tls.recv(100)), folder=folder), 5, certificate=room / "ann.pem")
    assert not any(seen)  # not one byte of ours went to it


def test_the_name_in_the_address_is_the_one_that_is_checked(echo, room):
    for name in ("localhost", "127.0.0.1"):
        RpycLink(f"rpycs://{name}:{echo.port}", 5, certificate=room / "ann.pem").close()
    with (
        serving(Echo, room, hostname="127.0.0.2") as elsewhere,  # answers, and is in no certificate
        pytest.raises(errors.AuthError, match=r"other names than 127\.0\.0\.2"),
    ):
        link_to(elsewhere, room)


def test_tls_to_a_plain_host_and_the_reverse(echo, room, monkeypatch, tmp_path):
    monkeypatch.setenv("LSPLIT_HOME", str(tmp_path))
    monkeypatch.delenv("LSPLIT_TOKEN_FILE", raising=False)
    with serving(Echo) as plain:
        with pytest.raises(errors.AuthError, match="does not speak TLS; .* write rpyc://"):
            RpycLink(plain.address.replace("rpyc", "rpycs"), 5, certificate=room / "ann.pem")
        RpycLink(plain.address, 5, token=TOKEN).close()
    for token in (TOKEN, None):
        with pytest.raises(errors.AuthError, match="speaks TLS only; write rpycs://"):
            RpycLink(echo.address.replace("rpycs", "rpyc"), 5, token=token)
    serves(echo, room)


def test_what_is_no_lsplit_host_gets_nothing(tls_host, room):
    seen = []
    for alpn, highest, error, words in (
        ((), ssl.TLSVersion.TLSv1_3, errors.AuthError, "is no lsplit host"),
        (("h2",), ssl.TLSVersion.TLSv1_3, errors.AuthError, "is no lsplit host"),
        ((), ssl.TLSVersion.TLSv1_2, errors.AuthError, "does not speak TLS 1.3"),
    ):
        address = tls_host(lambda tls: seen.append(tls.recv(100)), alpn=alpn, highest=highest)
        with pytest.raises(error, match=words):
            RpycLink(address, 5, certificate=room / "ann.pem")
    assert not any(seen)


def test_a_host_refuses_old_tls_and_other_protocols(echo, room):
    for alpn, highest in (("lsplit-certificate/1", ssl.TLSVersion.TLSv1_2), ("http/1.1", ssl.TLSVersion.TLSv1_3)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(room / "ca.pem")
        context.load_cert_chain(room / "ann.pem")
        context.maximum_version = highest
        context.set_alpn_protocols([alpn])
        sock = socket.create_connection(("127.0.0.1", echo.port), 5)
        try:
            with context.wrap_socket(sock, server_hostname="localhost") as tls:
                assert highest == ssl.TLSVersion.TLSv1_3 and tls.recv(1) == b""
        except ssl.SSLError as err:
            assert highest == ssl.TLSVersion.TLSv1_2 and "VERSION" in err.reason
    serves(echo, room)


@pytest.mark.parametrize(
    "content",
    [b"", b"no certificate", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cut"],
)
def test_a_damaged_bundle(echo, room, tmp_path, content):
    path = tmp_path / "ann.pem"
    whole = (room / "ann.pem").read_bytes()
    path.write_bytes(whole.replace(b"KEY-----\nM", b"KEY-----\n", 1) if content == "cut" else content)
    with pytest.raises(errors.AuthError, match=r"is no bundle|damaged") as caught:
        RpycLink(echo.address, 5, certificate=path)
    assert str(path) in str(caught.value)


def test_a_certificate_for_a_plain_address_is_a_mistake(toy, room):
    for body in (None, "loopback", "rpyc://127.0.0.1:1"):
        with pytest.raises(errors.UnsupportedOption, match="rpycs://"):
            lk.split(toy, body=body, certificate=room / "ann.pem")


@pytest.mark.parametrize(("end", "error"), [(False, errors.HostTimeout), (True, errors.HostUnavailable)])
def test_what_says_nothing_at_all(room, end, error):
    with socket.create_server(("127.0.0.1", 0)) as door:
        if end:
            threading.Thread(target=lambda: door.accept()[0].close(), daemon=True).start()
        with pytest.raises(error, match="TLS handshake") as caught:
            RpycLink(address_of("127.0.0.1", door.getsockname()[1], True), 0.5, certificate=room / "ann.pem")
        assert type(caught.value) is error


def test_without_tls_nobody_comes_in_without_the_token():
    server = StrictServer(Echo, TOKEN)
    assert server._door.mode == "token"
    server.close()


def test_a_full_house_is_said_to_be_full(room):
    with (
        serving(Echo, room, max_clients=1) as server,
        link_to(server, room),
        pytest.raises(errors.Busy, match="no free place"),
    ):
        link_to(server, room, "bo")


def test_one_name_takes_its_share_of_places_and_leaves_the_others(room):
    with serving(Echo, room, max_clients=8, max_each=2) as server:
        links = [link_to(server, room), link_to(server, room)]
        with pytest.raises(errors.Busy, match=r"2 connections under your name are open.* close one \(lm.close\(\)\)"):
            link_to(server, room)
        links.append(link_to(server, room, "bo"))
        links.pop(0).close()
        end = time.monotonic() + 5
        while server._named["ann"] > 1 and time.monotonic() < end:
            time.sleep(0.01)
        links.append(link_to(server, room))
        for link in links:
            link.close()
        while server._named and time.monotonic() < end:
            time.sleep(0.01)
        assert not server._named


def test_a_deployment_takes_the_bundle_along(body_server, room, toy):
    with lk.deploy(toy, "split", body=body_server.address, certificate=room / "ann.pem") as deployed:
        assert deployed.run("Hello", max_new_tokens=2).bytes_up > 0


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "bundle", "name"),
    [("certificate", "bo", "bo"), ("token", "ca", "token/"), ("token", "bo", "token/"), ("none", "ca", "anyone/")],
)
def test_the_host_knows_who_is_there_and_says_so(room, caplog, mode, bundle, name):
    caplog.set_level(NOTICE, "lsplit_kit.host")
    known = []
    with serving(Echo, room, mode) as server:
        with link_to(server, room, bundle, token=TOKEN) as link:
            known = link._call("who", (), (str,))[0]
            assert known.startswith(name) and (known == name) == (mode == "certificate")
            assert echoed(link, b"a secret tensor")
        end = time.monotonic() + 3
        while not (said := facts(caplog, client=known))[1:] and time.monotonic() < end:
            time.sleep(0.02)
    seconds = said[1].pop("seconds")
    assert said == [
        {"event": "connected", "client": known, "address": "127.0.0.1"},
        {"event": "disconnected", "client": known, "address": "127.0.0.1", "why": "the peer closed the connection"},
    ]
    assert 0 < seconds < 60 and "secret" not in caplog.text


def test_who_was_sent_away_is_in_the_log(room, caplog):
    caplog.set_level(NOTICE, "lsplit_kit.host")
    with serving(Echo, room) as server:
        with pytest.raises(errors.AuthError):
            link_to(server, room, "late")
        end = time.monotonic() + 3
        while not (said := facts(caplog, event="turned away")) and time.monotonic() < end:
            time.sleep(0.02)
    assert said[0]["address"] == "127.0.0.1" and "expired" in said[0]["why"]


def test_a_plain_peer_is_called_by_its_token():
    with serving(Echo) as server, RpycLink(server.address, 5, token=TOKEN) as link:
        assert link._call("who", (), (str,))[0].startswith("token/")


def test_nobody_reaches_the_session_of_another(body_server, room):
    with link_to(body_server, room, "ann") as ann, link_to(body_server, room, "bo") as bo:
        mine = ann.open(TERMS)
        number = ann._sessions[mine]
        for guess in {number, *range(20), 2**31, -1}:
            bo._sessions[999] = guess
            with pytest.raises(errors.SessionUnknown):
                bo._call("step", (guess, 0, 0, 1, 1, bytes(256)), (bytes,))
            bo._call("close_session", (guess,), (type(None),))
        assert ann._call("step", (number, 0, 0, 1, 1, bytes(4 * ann.info.width)), (bytes,))[0]


def test_the_token_inside_tls(room, tmp_path, monkeypatch):
    with serving(Echo, room, "token") as server:
        with link_to(server, room, "ca", token=TOKEN) as link:
            assert echoed(link)
        with pytest.raises(errors.AuthError, match="token does not match"):
            link_to(server, room, "ca", token=bytes(32))
        monkeypatch.setenv("LSPLIT_HOME", str(tmp_path))
        monkeypatch.delenv("LSPLIT_TOKEN_FILE", raising=False)
        with pytest.raises(errors.AuthError, match="LSPLIT_TOKEN_FILE"):
            link_to(server, room, "ca")
        with pytest.raises(errors.AuthError, match="not of the class"):  # before the token is shown to it
            link_to(server, room, "ca-theirs", token=TOKEN)
        tokens.write_token("127.0.0.1", server.port, TOKEN)
        with link_to(server, room, "ca") as link:
            assert echoed(link)


# -- strangers -------------------------------------------------------------------------------------


def client_hello(room):
    """The first bytes of a good TLS handshake."""
    out = ssl.MemoryBIO()
    tls = Ticket(room / "ann.pem").context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def test_who_stalls_in_the_handshake_disturbs_nobody(room):
    hello = client_hello(room)
    with serving(Echo, room, "token", handshake=3.0, max_clients=2) as server:
        stalled = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(6)]
        for sock, said in zip(stalled, (b"", b"", hello[:1], hello[:40], hello, hello), strict=True):
            sock.sendall(said)
        sock = socket.create_connection(("127.0.0.1", server.port), 5)
        tls, _ = Ticket(room / "ca.pem").enter(sock, "127.0.0.1", server.address)
        tls.sendall(tokens.MAGIC)  # and then no nonce
        for _ in range(3):  # there are two places, and none of them is taken
            with link_to(server, room, "ca", token=TOKEN) as link:
                assert echoed(link)
        drip, sent = socket.create_connection(("127.0.0.1", server.port), 5), 0
        with contextlib.suppress(ConnectionError):
            for sent in range(100):  # a byte each time: the deadline is for the whole of it
                drip.sendall(hello[sent : sent + 1])
                time.sleep(0.1)
        drip.close()
        assert sent < 99
        for sock in [*stalled, tls]:
            sock.settimeout(8)
            with contextlib.suppress(ConnectionError):
                while sock.recv(1 << 14):  # what TLS had to say, then the end, at the deadline
                    pass
            sock.close()
        with link_to(server, room, "ca", token=TOKEN) as link:
            assert echoed(link)


def mutated(raw_bytes, chance):
    """One to four changes: a bit, a byte, a cut, something put in."""
    data = bytearray(raw_bytes)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) or 1)
        match chance.randrange(4):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[at % len(data)] = chance.randrange(256)
            case 2:
                del data[at : at + chance.randint(1, 9)]
            case _:
                data[at:at] = chance.randbytes(chance.randint(1, 9))
    return bytes(data)


def test_mutated_bytes_before_tls(echo, room):
    hello, chance = client_hello(room), random.Random(7)
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", echo.port), 5) as sock:
            sock.sendall(mutated(hello, chance))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 14):
                pass
    serves(echo, room)


def test_mutated_frames_inside_tls(echo, room):
    good = request("hello", HELLO, 0) + request("echo", (b"x" * 300,), 1)
    chance, answered = random.Random(8), 0
    for _ in range(200):
        with contextlib.suppress(OSError), raw(echo, room) as tls:
            tls.sendall(mutated(good, chance))
            socket.socket.shutdown(tls, socket.SHUT_WR)
            while more := tls.recv(1 << 14):
                answered += len(more)
    assert answered  # some mutations leave hello whole
    serves(echo, room)


def test_a_changed_byte_on_the_line_ends_the_connection_and_nothing_is_made_of_it(echo, room):
    """Whoever is on the line can stop a link and cannot change a number in it."""

    class Meddler(Relay):
        meddle = ""

        def _pass_on(self, one, other, way):
            with contextlib.suppress(OSError):
                while data := bytearray(one.recv(1 << 16)):
                    if way == self.meddle:
                        data[len(data) // 2] ^= 1
                    other.sendall(data)
            self._hang_up()

    for way in ("up", "down"):
        with Meddler(echo.address) as line:
            link = RpycLink(line.address, 5.0, certificate=room / "ann.pem")
            assert echoed(link)
            line.meddle = way
            with pytest.raises(errors.HostUnavailable):
                echoed(link)
            line.meddle = ""
            link.close()
    serves(echo, room)


def test_a_relay_hears_nothing_but_sizes(body_server, room, toy):
    with Relay(body_server.address) as line:
        lm = lk.split(toy, body=line.address, certificate=room / "ann.pem")
        with lk.tap(lm) as wire:
            lm.generate(PROMPT, max_new_tokens=3, do_sample=False)
        lm.close()
    heard = line.up + line.down
    payloads = [crossing.data for crossing in wire.crossings if crossing.data]
    assert payloads and not any(payload[:64] in heard for payload in payloads)
    assert b"step" not in heard and b"toy-llama" not in heard


# -- what interrupts a link ------------------------------------------------------------------------


@pytest.fixture
def interruptible():
    """Ctrl-C as at a prompt: a worker process of parallel tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_the_link_usable(echo, room, interruptible):
    with link_to(echo, room) as link:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt), link._lock:
            link._call("nap", (2000,), (bytes,))
        assert link.epoch == 1
        with link._lock:
            link._ensure()
            assert echoed(link)


def test_close_from_another_thread_ends_the_wait(echo, room):
    link = link_to(echo, room)
    threading.Timer(0.2, link.close).start()
    with pytest.raises(errors.HostUnavailable), link._lock:  # and does not hear that it is awake
        link._call("nap", (2000,), (bytes,))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_share_the_connection(echo, room):
    with link_to(echo, room) as link:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                link._drop_if_dead()
                link._connect()
                status = 0 if echoed(link, b"child") else 2
            finally:
                link.close()
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert echoed(link, b"parent") and link.epoch == 0


def test_idle_connections_end_and_the_link_comes_back(room):
    with serving(Echo, room, idle=0.2) as server, link_to(server, room) as link:
        time.sleep(0.6)
        link._ensure()
        assert echoed(link) and link.epoch == 1


def test_a_server_that_ends_takes_its_tls_connections_along(room):
    with serving(Echo, room) as server:
        link = link_to(server, room)
        assert echoed(link)
    link._drop_if_dead()
    assert link._conn is None
    link.close()


# -- the host program ------------------------------------------------------------------------------


def test_a_host_process_takes_certificates_and_logs_names(room, toy, monkeypatch):
    monkeypatch.setenv("LSPLIT_CERTIFICATE", str(room / "bo.pem"))
    with lk.host("toy-llama", tls=room) as host:
        assert host.address.startswith("rpycs://127.0.0.1:")
        assert not tokens.token_path(*parse_address(host.address)).exists()
        lm = lk.split(toy, body=host.address)
        assert torch.equal(
            lm.generate(PROMPT, max_new_tokens=4, do_sample=False),
            toy.generate(PROMPT, max_new_tokens=4, do_sample=False),
        )
        lm.close()
        end = time.monotonic() + 10
        while "disconnected client=bo" not in host.stderr() and time.monotonic() < end:
            time.sleep(0.05)
        said = host.stderr()
        assert "NOTICE connected client=bo address=127.0.0.1" in said and "disconnected client=bo" in said
        assert "agreed" not in said  # sessions are told at another level


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls", "/no/such"], "There is no host.pem in /no/such"),
        (["--tls", "ROOM/expired"], "expired on"),
        (["--auth", "certificate"], "--auth certificate is for hosts with TLS; add --tls"),
        (["--auth", "none"], "--auth none is for hosts with TLS; add --tls"),
        (["--tls", "ROOM", "--auth", "none", "--bind", "0.0.0.0"], "add --allow-remote"),
    ],
)
def test_a_host_that_cannot_start_says_why(room, capsys, options, words):
    root = logging.getLogger()
    before = root.handlers[:], root.level, log.level
    assert serve.main([option.replace("ROOM", str(room)) for option in options]) == 2
    assert (root.handlers[:], root.level, log.level) == before  # its log ends with the program
    said = capsys.readouterr()
    assert words in said.err and said.out == "" and "Traceback" not in said.err


def test_no_such_proof():
    with pytest.raises(errors.UnsupportedOption, match="auth takes auto, certificate, token, none"):
        lk.host("toy-llama", auth="password")


def test_after_shutdown_a_tls_socket_is_still_one(echo, room):
    """Otherwise a thread that is about to write would write in clear."""
    with raw(echo, room) as tls:
        tls.shutdown(socket.SHUT_WR)
        assert tls.version() == "TLSv1.3"


def test_who_may_listen_to_other_machines():
    said = []
    for mode in ("certificate", "token"):
        serve.check_bind("0.0.0.0", False, True, mode, said.append)
    serve.check_bind("127.0.0.1", False, warn=said.append)
    assert said == []
    for tls, mode, word in ((False, "token", "not encrypted"), (True, "none", "asks nobody")):
        with pytest.raises(errors.UnsupportedOption, match="allow-remote"):
            serve.check_bind("0.0.0.0", False, tls, mode, [].append)
        serve.check_bind("0.0.0.0", True, tls, mode, said.append)
        assert word in said.pop()
    assert set(MODES) == {"certificate", "token", "none"}
