"""What a host tells of itself: health, stats, holdings; counters, metrics and a log without a byte of a tensor."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from functools import cache

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import errors
from lsplit_kit.measure.audit import Audit, look
from lsplit_kit.models.partial import load_body
from lsplit_kit.models.toys import TOYS
from lsplit_kit.models.whole import whole_of
from lsplit_kit.remote import metrics, serve
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.journal import Line, journal
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.remote.sharing import Sharing
from lsplit_kit.split.telling import Spent
from lsplit_kit.wire.events import log, tell
from lsplit_kit.wire.here import InProcess, Loopback
from lsplit_kit.wire.message import PROTOCOL, Open, Step
from lsplit_kit.wire.watch import Health, Holding, Stats, Use, Watched, dump_holdings, read_holdings

TOKEN, TERMS = b"t" * 32, Open("kv", "fp32", "fp32")
STATS = Stats(True, 5, 2, 0, 64, 1, 10, 1000, 500, 4, 3, 2, 1, (1, 2), (3, 4), (5, 6), (Use("a", 1, 10, 0),))
HEALTH = Health(True, "toy", "ab", "layers", 1, 5, 3, PROTOCOL)
HELD = [Holding("model.layers.1.q.weight", (2, 3), "float32", 24, "ab" * 32), Holding("tokenizer", (), "", 0, "")]


@cache
def toy():
    return lk.load("toy-llama")[0]


class Room:
    """A host in a thread, over real sockets."""

    def __init__(self, **sharing):
        self.body = load_body("toy-llama", 1, 1)
        shared = Sharing(**sharing).check()
        self.body.pool = shared.pool()
        self.service = service_of(self.body, shared.turns(self.body.pool))
        self.server = StrictServer(self.service, TOKEN)
        self.server.listener.listen(8)
        self.thread = threading.Thread(target=self.server.start, daemon=True)
        self.thread.start()

    def link(self):
        return RpycLink(self.server.address, 30, token=TOKEN)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.close()
        self.thread.join(5)


@pytest.fixture(scope="module")
def room():
    with Room() as found:
        yield found


@pytest.fixture(scope="module")
def child():
    with lk.host("toy-llama", 1, 1, metrics_port=0) as host:
        yield host


def vectors(count, seed=0):
    return torch.randn(1, count, 64, generator=torch.Generator().manual_seed(seed))


def step_of(count, start=0, number=0):
    return Step(number, start, 1, count, vectors(count, number).numpy().tobytes())


# -- answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [STATS, HEALTH])
def test_what_is_told_is_what_is_read(value):
    assert type(value).read(value.raw()) == value


def test_holdings_come_back():
    assert read_holdings(dump_holdings(2, HELD)) == (2, HELD)


def changed(value, **fields):
    return json.dumps(json.loads(value.raw()) | fields).encode()


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff", b"[]", b"1", b"[" * 100_000, b"{}", changed(STATS, steps=-1), changed(STATS, steps=True),
     changed(STATS, steps=1.5), changed(STATS, steps=1 << 70), changed(STATS, waiting=[1]), changed(STATS, codec="xx"),
     changed(STATS, sessions=[["a", 1, 1]]), changed(STATS, sessions=[["a", 1, 1, 0]] * 8193),
     changed(STATS, sessions={}), changed(STATS, everybody=1)],
)  # fmt: skip
def test_stats_of_another_form_are_refused(raw):
    with pytest.raises(errors.FrameError) as caught:
        Stats.read(raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "raw", [changed(HEALTH, kind="all"), changed(HEALTH, start=5), changed(HEALTH, model=7), changed(HEALTH, ready=1)]
)
def test_health_of_another_form_is_refused(raw):
    with pytest.raises(errors.FrameError):
        Health.read(raw)


@pytest.mark.parametrize(
    "rows",
    [[["a", [1], "f", 1]], [["a", [-1], "f", 1, "x"]], [["a", [1.0], "f", 1, "x"]], [["a", [1] * 17, "f", 1, "x"]],
     [[7, [1], "f", 1, "x"]], [["a", [1], "f", -1, "x"]], "ab", [["a", [1], "f", 1, "x"]] * 3],
)  # fmt: skip
def test_holdings_of_another_form_are_refused(rows):
    with pytest.raises(errors.FrameError):
        read_holdings(json.dumps({"total": 2, "held": rows}).encode())


def test_a_text_of_a_peer_is_made_short_and_printable():
    found = Health.read(changed(HEALTH, model="a\x1b[31m\n" + "b" * 9999))
    assert found.model.isprintable() and len(found.model) == 400


class Liar(Watched):
    """Answers what it is given, in turn."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def told(self, name, *args):
        return self.answers.pop(0)


@pytest.mark.parametrize(
    "answers", [[(3, HELD), (3, [])], [(3, HELD), (4, HELD[:1])], [(3, HELD), (3, HELD)], [(1 << 17, [])]]
)
def test_holdings_that_do_not_add_up_are_refused(answers):
    with pytest.raises(errors.FrameError):
        Liar(*(dump_holdings(*answer) for answer in answers)).holdings()


def test_percentiles_are_times_of_steps():
    spent = Spent()
    assert spent.percentiles() == (0, 0)
    for ms in range(1, 101):
        spent.add(ms / 1000)
    assert spent.percentiles() == (50_000, 95_000)
    assert sum(spent.counts) == 100 and spent.total == pytest.approx(5.05)


# -- over a link ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [InProcess, Loopback])
def test_a_body_in_this_process_tells_too(kind):
    link, noted = kind(load_body("toy-llama", 1, 1)), []
    link.on_control = lambda *what: noted.append(what)
    session = link.open(TERMS)
    link.step(session, step_of(3))
    link.step(session, step_of(1, 3, 1))
    now = link.stats()
    assert (now.steps, now.hits, now.misses) == (2, 1, 0) and now.memory == now.sessions[0].size > 0
    assert link.health()[:6] == (True, "toy-llama", link.info.fingerprint, "layers", 1, 5)
    assert len(link.holdings()) == 38
    assert [what for what, *_ in noted] == ([] if kind is InProcess else ["open", "stats", "health", "holdings"])
    assert all(up > 0 and down > 0 for _, up, down in noted)
    assert lk.EmulatedLink(link, "4g").stats().steps == 2
    link.close()
    if kind is InProcess:
        with pytest.raises(errors.HostUnavailable):
            link.stats()


def test_a_link_notes_the_bytes_of_every_question(room):
    with room.link() as link:
        noted = []
        link.on_control = lambda *what: noted.append(what)
        before = link.counters()["stream"]
        assert link.health().protocol == PROTOCOL and link.stats().connections == 1
        assert len(link.holdings()) == 38
        after = link.counters()["stream"]
        assert [what for what, *_ in noted] == ["health", "stats", "holdings"]
        for way in (0, 1):
            assert sum(what[1 + way] for what in noted) == after[way] - before[way]


def test_a_client_is_told_its_own_sessions_only(room):
    with room.link() as a, room.link() as b:
        for link, count in ((a, 2), (b, 3)):
            for _ in range(count):
                link.step(link.open(TERMS), step_of(4))
        for link, count in ((a, 2), (b, 3)):
            now = link.stats()
            assert len(now.sessions) == count and not now.everybody
            assert len({use.owner for use in now.sessions}) == 1 and now.connections == 2
            assert sum(use.size for use in now.sessions) < now.memory
        everybody = Stats.read(room.service.watch.told(None, "stats"))
        assert everybody.everybody and len(everybody.sessions) == 5 and everybody.memory == a.stats().memory
    end = time.monotonic() + 5
    while room.service.watch.connections and time.monotonic() < end:
        time.sleep(0.01)
    assert room.service.watch.connections == 0


def test_hits_and_misses_are_what_their_names_say():
    with Room() as room, room.link() as link:
        session = link.open(TERMS)
        link.step(session, step_of(4))
        link.step(session, step_of(1, 4, 1))
        link.step(session, step_of(1, 5, 2))
        assert link.stats()[9:12] == (3, 2, 0)
        with pytest.raises(errors.CacheMiss):
            link.step(session, step_of(1, 9, 3))
        room.body.pool.idle = -1.0
        room.body.pool.sweep()
        with pytest.raises(errors.CacheMiss):
            link.step(session, step_of(1, 6, 4))
        link._sessions[77] = 4711
        with pytest.raises(errors.SessionUnknown):
            link.step(77, step_of(4))
        with pytest.raises(errors.CodecError):
            link.step(session, Step(5, 0, 1, 4, b"short"))  # neither a hit nor a miss
        now = link.stats()
        assert now[9:13] == (3, 2, 3, 1) and now.memory == 0
        assert all(high >= half > 0 for half, high in (now.waiting, now.codec, now.computing))


@pytest.mark.parametrize("name", ["health", "stats", "holdings"])
def test_nothing_is_told_before_hello(room, name):
    asked = room.service()
    with pytest.raises(errors.FrameError, match="hello first"):
        getattr(asked, f"exposed_{name}")(*([0] if name == "holdings" else []))


@pytest.mark.parametrize(
    ("name", "args"),
    [("health", (1,)), ("stats", ("x",)), ("holdings", ()), ("holdings", (b"",)), ("holdings", (True,)),
     ("holdings", (-1,)), ("holdings", (39,))],
)  # fmt: skip
def test_questions_of_another_form_are_refused_and_the_host_goes_on(room, name, args):
    with room.link() as link:
        with pytest.raises(errors.FrameError):
            link._call(name, args, (bytes,))
        assert link.health().ready


def test_a_question_leaves_the_answers_under_way_alone(room):
    with room.link() as link:
        session = link.open(TERMS)
        link.send(session, step_of(3))
        with pytest.raises(errors.Busy, match="under way"):
            link.stats()
        assert len(link.receive(session).payload) == 3 * 64 * 4
        assert link.stats().sessions[0].number == 1


def test_an_older_host_is_named(room):
    with room.link() as link:
        link.info = link.info._replace(protocol="1.0")
        with pytest.raises(errors.VersionMismatch, match="speaks wire 1.0, which cannot tell its stats"):
            link.stats()


# -- from the parent --------------------------------------------------------------------------------


def test_a_parent_is_told_everything_and_takes_no_connection(child):
    lm = lk.split(lk.load_local("toy-llama", 1, 1), body=child.address)
    lm.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=[])
    now = child.stats()
    assert now.everybody and now.connections == 1 and len(now.sessions) == 1 and now.steps >= 3
    assert child.health().fingerprint == child.fingerprint and len(child.holdings()) == 38
    lm.close()


def test_a_host_that_ended_is_a_sentence():
    host = lk.host("toy-llama", 1, 1)
    host.close()
    for _ in range(2):
        with pytest.raises(errors.HostUnavailable, match="has ended"):
            host.stats()


@pytest.mark.parametrize("raw", [b"\n", b"x\n", b"1 shell\n", b"1 holdings x\n", b"1 holdings 999999\n", b"\xff\xfe\n"])
def test_nonsense_on_the_pipe_is_answered_with_nothing(raw, monkeypatch, room):
    said = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", said)
    pipe = serve.Child()
    pipe.told = room.service.watch.told
    pipe.feed(raw[:1])
    pipe.feed(raw[1:] + b"2 health\n")
    *_, last = said.getvalue().splitlines()
    assert said.getvalue().count("{}") == 1 and last.startswith('2 {"ready":true')


# -- audit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TOYS, "emoji-ldm"])
def test_a_hosts_body_passes_its_audit(name):
    body = load_body(name, 1, 1)
    found = lk.audit(InProcess(body))
    assert (
        found.passed
        and found.table["body"].all()
        and set(found.table["role"]) <= {"decoder layer", "denoiser", "table"}
    )
    assert (found.table.sha256.str.len() == 64).all() and len(found.table) == len(found.holdings)


def test_hashes_of_the_audit_are_those_of_the_weights(child):
    table, held = lk.audit(child).table.set_index("name"), dict(toy().named_parameters())
    from lsplit_kit.split.fingerprint import digest

    weights = table[table.role == "decoder layer"]
    assert len(weights) == 36 and all(digest(held[n]) == row.sha256 for n, row in weights.iterrows())
    assert all(tuple(held[n].shape) == row["shape"] for n, row in weights.iterrows())


@pytest.mark.parametrize(
    ("name", "roles"),
    [("toy-llama", {"LM head", "embedding", "final norm"}), ("toy-gpt2", {"LM head", "embedding", "final norm"}),
     ("toy-bloom", {"LM head", "embedding", "final norm"}), ("emoji-ldm", {"VAE", "text encoder", "tokenizer"})],
)  # fmt: skip
def test_a_whole_models_host_fails_its_audit(name, roles):
    link = InProcess(whole_of(lk.load(name)[0] if name != "emoji-ldm" else lk.load(name)))
    with pytest.raises(errors.AuditFailed) as caught:
        lk.audit(link)
    found = caught.value.audit
    assert not found.passed and {row.role for row in found.table.itertuples() if not row.body} == roles
    assert all(role in str(caught.value) for role in roles) and "\n" not in str(caught.value)


def audit_of(*names, **health):
    rows = [Holding(name, (2,), "float32", 8, "ab" * 32) for name in names]
    return Audit("x", "foreign", HEALTH._replace(**health), rows)


@pytest.mark.parametrize(
    ("name", "role"),
    [("model.layers.0.mlp.weight", "layer it does not serve"), ("model.layers.5.mlp.weight", "layer it does not serve"),
     ("lm_head.weight", "LM head"), ("model.embed_tokens.weight", "embedding"), ("transformer.wpe.weight", "embedding"),
     ("model.norm.weight", "final norm"), ("transformer.ln_f.bias", "final norm"), ("mystery", "unknown"),
     ("tokenizer", "unknown"), ("vae.decoder.weight", "VAE"), ("text_encoder.embed.weight", "text encoder")],
)  # fmt: skip
def test_one_tensor_too_many_fails_an_audit(name, role):
    found = audit_of("model.layers.1.mlp.weight", name)
    assert role in found.roles and not found.passed and name in found.verdict
    with pytest.raises(errors.AuditFailed, match=role):
        found.check()


@pytest.mark.parametrize("name", ["vae.decoder.weight", "tokenizer", "text_encoder.weight", "down_blocks.0.weight"])
def test_a_denoisers_host_may_hold_the_denoiser_only(name):
    assert audit_of("denoiser.conv_in.weight", kind="parts").passed
    assert not audit_of("denoiser.conv_in.weight", name, kind="parts").passed


def test_a_host_that_says_nothing_or_calls_itself_whole_fails():
    assert not audit_of().passed and "not one tensor" in audit_of().verdict
    assert not audit_of("model.layers.1.mlp.weight", kind="whole").passed


def test_whose_word_an_audit_is(child, room):
    assert "this process started" in look(child).word
    with room.link() as link:
        assert "its own statement" in look(link).word
    assert "its own statement" in look(child.address).word and "rpyc://" in repr(look(child.address))


@pytest.mark.parametrize("what", ["smollm2", 7, None, "http://127.0.0.1:1"])
def test_what_is_no_host_is_a_sentence(what):
    with pytest.raises(errors.UnsupportedOption, match="is no host; give"):
        lk.audit(what)


def test_the_command_line_audits(child):
    with lk.host("toy-llama", whole=True) as whole:
        for host, status, words in ((child, 0, "body and nothing else"), (whole, 1, "holds more than a body: LM head")):
            done = subprocess.run(
                [sys.executable, "-m", "lsplit_kit", "audit", host.address], capture_output=True, text=True, timeout=120
            )
            assert done.returncode == status and words in done.stdout and "its own statement" in done.stdout
            assert "Traceback" not in done.stderr


# -- metrics ----------------------------------------------------------------------------------------


def scraped(address):
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_metrics_agree_with_the_stats(child):
    found, now = scraped(child.metrics), child.stats()
    assert child.metrics.startswith("http://127.0.0.1:")
    for name, value in metrics.values(now).items():
        key = f"lsplit_{name}" + ("_total" if name in metrics.COUNTERS else "")
        assert float(found[key]) == value, name
    for stage in ("waiting", "codec", "computing"):
        label = f'{{stage="{stage}"}}'
        assert float(found[f"lsplit_stage_seconds_count{label}"]) == now.steps
        for share, microseconds in zip(("p50", "p95"), getattr(now, stage), strict=True):
            assert float(found[f"lsplit_stage_{share}_seconds{label}"]) == microseconds / 1e6
        assert float(found[f'lsplit_stage_seconds_bucket{{le="+Inf",stage="{stage}"}}']) == now.steps
    assert not any("token/" in line or "process_" in line for line in found)


def test_a_metrics_port_that_is_taken_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(errors.HostUnavailable, match=f"Port {port} .* --metrics-port") as caught:
            lk.host("toy-llama", 1, 1, metrics_port=port)
        assert "\n" not in str(caught.value)


def test_without_the_package_metrics_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(errors.UnsupportedOption, match="pip install prometheus-client"):
        metrics.Metrics().serve(0)


@pytest.mark.parametrize("port", [-1, 70000, "80", True])
def test_bad_metrics_ports_are_a_sentence(port):
    with pytest.raises(errors.UnsupportedOption, match="metrics_port takes a number"):
        lk.host("toy-llama", 1, 1, metrics_port=port)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of this machine")
def test_metrics_answer_on_loopback_only_wherever_the_host_listens():
    with lk.host("toy-llama", 1, 1, bind="0.0.0.0", allow_remote=True, metrics_port=0) as host:
        port = int(host.metrics.removesuffix("/metrics").rpartition(":")[2])
        socket.create_connection(("127.0.0.2", int(host.address.rpartition(":")[2])), 5).close()  # the host itself
        assert host.metrics == f"http://127.0.0.1:{port}/metrics" and scraped(host.metrics)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), 5)


def test_metrics_end_with_their_host():
    found = metrics.Metrics()
    found.serve(0)
    assert scraped(found.address) == {}
    found.close()
    with pytest.raises(OSError):
        scraped(found.address)


# -- the log ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_has_every_event_and_no_byte_of_a_payload(form):
    stream = io.StringIO()
    mark = b"SECRET-PAYLOAD-1"
    payload = mark * (4 * 64 * 4 // len(mark))
    with journal("debug", form, stream), Room(memory_mb=0.07) as room:
        for _ in range(2):
            with room.link() as link:
                down = link.step(link.open(TERMS), Step(0, 0, 1, 4, payload)).payload
                link.step(link.open(TERMS), Step(0, 0, 1, 4, payload))
                with pytest.raises(errors.CacheMiss):
                    link.step(1, Step(1, 9, 1, 4, payload))
                with pytest.raises(errors.FrameError):
                    link._call("step", (1, payload[:64]), (bytes,))
        end = time.monotonic() + 5
        while stream.getvalue().count("disconnected") < 2 and time.monotonic() < end:
            time.sleep(0.01)
    said = stream.getvalue()
    for event in ("connected", "agreed", "session opened", "step", "session forgotten", "disconnected", "cache-miss"):
        assert event in said, event
    assert said.count("127.0.0.1") == said.count("connected") == 4  # who came is told once, and who left
    for raw in (mark, down[:16], down[:4]):
        for written in (
            raw.hex(),
            raw.hex(" "),
            base64.b64encode(raw).decode()[:8],
            repr(raw)[2:-1],
            str(list(raw))[1:-1],
        ):
            assert written not in said
    for value in torch.frombuffer(bytearray(payload[:16] + down[:16]), dtype=torch.float32).tolist():
        assert f"{value:.5g}" not in said
    if form == "json":
        lines = [json.loads(line) for line in said.splitlines()]
        step = next(line for line in lines if line["event"] == "step")
        assert set(step) == {"time", "level", "event", "client", "session", "step", "up", "down", "waited"}
        assert (step["up"], step["down"]) == (1024, 1024)
        came, left = (next(line for line in lines if line["event"] == event) for event in ("connected", "disconnected"))
        assert came | {"level": "notice", "address": "127.0.0.1"} == came
        assert left["client"] == came["client"] == step["client"] and left["seconds"] > 0


def test_a_text_of_a_peer_is_never_another_fact():
    record = logging.LogRecord("host", logging.INFO, "x", 1, "turned away", (), None)
    record.facts = {"why": 'no\naddress=10.0.0.1 "', "address": "::1", "steps": 2}
    assert Line().format(record).endswith(r'turned away why="no?address=10.0.0.1 \"" address=::1 steps=2')


def test_the_log_ends_with_its_block():
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level, log.level
    with pytest.raises(KeyError), journal("info", "text", stream):
        tell("one")
        raise KeyError
    tell("two", logging.ERROR)
    assert (root.handlers[:], root.level, log.level) == before
    assert "one" in stream.getvalue() and "two" not in stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_error_in_the_log_is_its_name_and_place(form):
    try:
        raise ValueError("a payload \x00\x01 in it")
    except ValueError:
        record = logging.LogRecord("host", logging.INFO, "x", 1, "a connection\nwas dropped", (), sys.exc_info())
    line = Line(form).format(record)
    assert "payload" not in line and "ValueError" in line and re.search(r"test_watching\.py:\d+", line)
    assert line.isprintable() and "a connection?was dropped" in line


def test_a_host_from_a_shell_writes_its_log_as_json():
    shell = subprocess.Popen(
        [sys.executable, "-m", "lsplit_kit", "host", "--model", "toy-llama", "--head", "1", "--tail", "1",
         "--log-level", "info", "--log-format", "json", "--metrics-port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        ready = json.loads(shell.stdout.readline())
        assert scraped(ready["metrics"])["lsplit_steps_total"] == "0.0"
        RpycLink(ready["address"]).close()
        said = []
        while not said or '"agreed"' not in said[-1]:
            said.append(shell.stderr.readline())
        events = [json.loads(line) for line in said]
        assert events[0] | {"level": "info", "event": "loading the body of toy-llama ..."} == events[0]
        assert [line["event"] for line in events][-2:] == ["connected", "agreed"]
        assert events[-1] | {"client": "token/1", "start": 1, "stop": 5} == events[-1]
    finally:
        shell.terminate()
        assert shell.wait(20) == 0
        shell.stdout.close()
        shell.stderr.close()


# -- names and fleets -------------------------------------------------------------------------------


def test_over_tls_a_name_is_told_the_sessions_of_all_its_connections(tmp_path):
    from lsplit_kit.remote.certificates import make_class
    from lsplit_kit.remote.gate import Gate

    folder = make_class(tmp_path / "class", ["ann", "bob"]).folder
    service = service_of(load_body("toy-llama", 1, 1))
    server = StrictServer(service, TOKEN, max_each=4, gate=Gate(folder / "host"))
    server.listener.listen(8)
    threading.Thread(target=server.start, daemon=True).start()
    links = [
        RpycLink(server.address, 30, certificate=folder / "students" / f"{name}.pem") for name in ("ann", "ann", "bob")
    ]
    try:
        for link in links:
            link.step(link.open(TERMS), step_of(4))
        told = [link.stats() for link in links]
        assert [[use.owner for use in now.sessions] for now in told] == [["ann", "ann"], ["ann", "ann"], ["bob"]]
        assert {now.connections for now in told} == {3}
    finally:
        for link in links:
            link.close()
        server.close()


def test_a_fleet_tells_of_the_host_in_use(room):
    from lsplit_kit.remote.fleet import Fleet

    with Room() as other, Fleet([room.server.address, other.server.address], 30, token=TOKEN) as fleet:
        fleet.step(fleet.open(TERMS), step_of(4))
        assert fleet.stats().steps == room.service.watch.body.pool.steps and len(fleet.stats().sessions) == 1
        assert lk.audit(fleet).passed and other.body.pool.steps == 0
