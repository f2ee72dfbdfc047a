"""A host is a child process: it ends with its parent, whatever ends the parent, and a client outlives its host."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import StoppingCriteria

import lsplit_kit as lk
from lsplit_kit import errors
from lsplit_kit.models import partial
from lsplit_kit.quantization import register, registry
from lsplit_kit.quantization.casts import Float32
from lsplit_kit.remote import serve
from lsplit_kit.remote.address import parse_address
from lsplit_kit.remote.watching import Child
from lsplit_kit.wire import patience

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc"),
]
PROMPT = torch.tensor([[5, 9, 17, 40, 3]])


def alive(pid):
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid, seconds=10.0):
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


def tokens_in(home):
    return list((home / "hosts").iterdir()) if (home / "hosts").exists() else []


def generate(model, count=12, **options):
    return model.generate(PROMPT, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=[], **options)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home of this file's own, so that token files can be counted."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSPLIT_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def toy():
    return lk.load("toy-llama")[0]


def test_an_exception_in_the_block_ends_the_host(home):
    with pytest.raises(ZeroDivisionError), lk.host("toy-llama") as host:
        assert host.running and alive(host.pid)
        _ = 1 / 0
    assert gone(host.pid, 1) and not host.running and not tokens_in(home)


def test_a_host_that_nobody_closed_ends_when_forgotten(home):
    host = lk.host("toy-llama")
    pid = host.pid
    del host
    assert gone(pid) and not tokens_in(home)


PARENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background may have it ignored
from lsplit_kit.remote.host import host as start  # lk.host, without importing torch first
host = start("toy-llama")
print(host.pid, flush=True)
KIND
"""
ENDS = {
    "killed": ("time.sleep(60)", signal.SIGKILL),
    "terminated": ("time.sleep(60)", signal.SIGTERM),
    "interrupted in the block": ("with host: time.sleep(60)", signal.SIGINT),
    "runs off its end": ("pass", None),
    "forked, then killed": (  # the fork holds the host's stdin open: only the parent's id tells
        "import os\nif os.fork() == 0: time.sleep(12); os._exit(0)\ntime.sleep(60)",
        signal.SIGKILL,
    ),
}


@pytest.mark.parametrize("how", ENDS)
def test_the_host_ends_with_its_parent(home, how):
    rest, number = ENDS[how]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.replace("KIND", rest)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        pid = int(parent.stdout.readline())
        if number is not None:
            assert alive(pid)
            parent.send_signal(number)
        parent.wait(15)
        assert gone(pid), "the host outlived its parent"
        assert not tokens_in(home)
    finally:
        parent.kill()
        parent.wait(5)
        parent.stdout.close()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(model="toy-none"), errors.WeightsError, "toy-none"),
        (dict(model="toy-llama", head=4, tail=3), errors.PlanError, "overlap"),
        (dict(model="toy-llama", dtype="int8"), errors.UnsupportedOption, "float"),
        (dict(model="toy-llama", bind="0.0.0.0"), errors.UnsupportedOption, "allow-remote"),
        (dict(model="toy-llama", bind="192.0.2.1", allow_remote=True), errors.HostUnavailable, "listen"),
        (dict(model="toy-llama", port=70000), errors.UnsupportedOption, "port"),
    ],
)
def test_a_host_that_cannot_start_says_why(home, options, error, words):
    with pytest.raises(errors.LsplitError) as caught:
        lk.host(**options)
    assert type(caught.value) is error
    text = str(caught.value)
    assert words in text and "Traceback" not in text and text.isprintable()
    assert not tokens_in(home)


def test_a_port_that_is_taken_is_said(home):
    with lk.host("toy-llama") as host:
        _, port = parse_address(host.address)
        with pytest.raises(errors.HostUnavailable, match=f"Port {port} .* in use"):
            lk.host("toy-llama", port=port)
        assert len(tokens_in(home)) == 1 and host.running
        # bound before the model is loaded: smollm2 would take seconds, and this home would have to fetch it
        shell = subprocess.run(
            [sys.executable, "-m", "lsplit_kit", "host", "--port", str(port)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert shell.returncode == 2 and shell.stdout == ""
        assert re.fullmatch(rf"lsplit host: Port {port} .* \(docs/errors/host-unavailable.md\)\n", shell.stderr)


def test_a_host_from_a_shell_names_its_token_file_and_sweeps_those_of_the_dead(home):
    dead = lk.host("toy-llama")
    os.kill(dead.pid, signal.SIGKILL)
    assert gone(dead.pid)
    (stale,) = tokens_in(home)
    copied = stale.with_name("192.0.2.1_18861.token")  # of a host elsewhere: not ours to judge
    copied.write_text(stale.read_text())
    with lk.host("toy-llama") as living:
        shell = subprocess.Popen(
            [sys.executable, "-m", "lsplit_kit", "host", "--model", "toy-llama"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            ready = json.loads(shell.stdout.readline())
            assert Path(ready["token_file"]) in tokens_in(home) and not stale.exists() and copied.exists()
            split = lk.split("toy-llama", body=ready["address"])
            assert split.generate("Hi", max_new_tokens=1) is not None
            split.close()
            lk.split("toy-llama", body=living.address).close()  # a host that was looked at goes on
        finally:
            shell.send_signal(signal.SIGINT)
            assert shell.wait(20) == 0
            assert "loading" in shell.stderr.read()
            shell.stdout.close()
            shell.stderr.close()
    copied.unlink()
    assert not tokens_in(home)
    dead.close()


def test_an_orphan_that_is_stuck_leaves_no_token_file(tmp_path, monkeypatch):
    token, ended = tmp_path / "a.token", []
    token.write_text("x")
    monkeypatch.setattr(serve.os, "read", lambda *_: b"")  # its stdin has ended
    monkeypatch.setattr(serve.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(serve.os, "_exit", lambda status: ended.append((status, token.exists())))
    serve._watch_parent(threading.Event(), os.getppid(), [token], Child())
    assert ended == [(3, False)]


def test_what_has_to_be_fetched_is_fetched_here_and_not_under_the_deadline(home, monkeypatch):
    asked = []

    def folder(name):
        asked.append(name)
        raise errors.WeightsError("It was asked for here.")

    monkeypatch.setattr(partial, "folder_of", folder)
    with pytest.raises(errors.WeightsError, match="here"):
        lk.host("SmolLM2", start_seconds=1)
    assert asked == ["smollm2"]


def test_a_codec_that_only_this_side_has_is_said_to_be_unknown_there(home, toy):
    name = "mine:fp32"
    try:
        register(name)(type("Mine", (Float32,), {}))
        with lk.host("toy-llama") as host:
            split = lk.split(toy, body=host.address, codec=name)
            with pytest.raises(errors.CodecError, match="The host does not know the codec 'mine:fp32'; it knows fp32"):
                split(PROMPT)
            split.close()
    finally:
        registry._FAMILIES.pop(name, None)
        registry._codec.cache_clear()


def test_the_token_file_is_the_users_own_and_goes(home):
    with lk.host("toy-llama") as host:
        (path,) = tokens_in(home)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
        assert path.stat().st_uid == os.getuid()
        content = path.read_text().strip()
        assert len(bytes.fromhex(content)) == 32
        command = Path(f"/proc/{host.pid}/cmdline").read_bytes() + Path(f"/proc/{host.pid}/environ").read_bytes()
        assert content.encode() not in command  # other users may read a command line
        path.chmod(0o644)
        with pytest.raises(errors.AuthError, match="open to others"):
            lk.split("toy-llama", body=host.address)
        path.chmod(0o600)
        lk.split("toy-llama", body=host.address).close()
    assert not path.exists()


class KillAt(StoppingCriteria):
    """Ends the host after so many calls, while generate() goes on."""

    def __init__(self, pid, calls):
        self.pid, self.left = pid, calls

    def __call__(self, input_ids, scores, **options):
        self.left -= 1
        if self.left == 0:
            os.kill(self.pid, signal.SIGKILL)
            assert gone(self.pid)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


@pytest.mark.parametrize("policy", ["kv", "hidden"])
def test_a_killed_host_is_an_error_and_its_successor_goes_on(home, toy, policy, monkeypatch):
    monkeypatch.setattr(patience, "RETURN_SECONDS", 0)  # nobody starts another one meanwhile
    expected = generate(toy)
    host = lk.host("toy-llama")
    _, port = parse_address(host.address)
    split = lk.split(toy, body=host.address, cache=policy, timeout=5)
    assert torch.equal(generate(split), expected)
    began = time.monotonic()
    with pytest.raises(errors.HostUnavailable) as caught:
        generate(split, stopping_criteria=[KillAt(host.pid, 4)])
    assert time.monotonic() - began < 5 and "Traceback" not in str(caught.value)
    with pytest.raises(errors.HostUnavailable):
        generate(split)
    assert not host.running
    host.close()
    with lk.host("toy-llama", port=port) as successor:
        assert successor.address == host.address and successor.pid != host.pid
        assert torch.equal(generate(split), expected)
    split.close()


def test_a_host_that_ends_and_returns_between_two_tokens_is_not_noticed(home, toy):
    expected = generate(toy)
    host = lk.host("toy-llama")
    _, port = parse_address(host.address)
    split = lk.split(toy, body=host.address, timeout=5)
    hosts = [host]

    class Restart(StoppingCriteria):
        calls = 0

        def __call__(self, input_ids, scores, **options):
            self.calls += 1
            if self.calls == 4:
                os.kill(host.pid, signal.SIGKILL)
                assert gone(host.pid)
                hosts.append(lk.host("toy-llama", port=port))
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    try:
        assert torch.equal(generate(split, stopping_criteria=[Restart()]), expected)  # the history was replayed
        assert len(hosts) == 2
    finally:
        split.close()
        for each in hosts:
            each.close()


@pytest.mark.parametrize("policy", ["kv", "hidden"])
def test_a_host_that_is_killed_in_a_step_and_started_again_is_waited_for(home, toy, policy, monkeypatch):
    monkeypatch.setattr(patience, "RETURN_SECONDS", 60.0)  # a busy machine takes its time to load a host
    host = lk.host("toy-llama")
    _, port = parse_address(host.address)
    split = lk.split(toy, body=host.address, cache=policy)
    hosts = [host]

    def again():
        os.kill(host.pid, signal.SIGKILL)  # while it has the step
        assert gone(host.pid)
        hosts.append(lk.host("toy-llama", port=port))

    back = threading.Timer(0.1, again)

    class Hang(StoppingCriteria):
        calls = 0

        def __call__(self, input_ids, scores, **options):
            self.calls += 1
            if self.calls == 4:
                os.kill(host.pid, signal.SIGSTOP)
                back.start()
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    try:
        with lk.tap(split) as wire, pytest.warns(UserWarning, match="Waiting up to 60 s for one to be there again"):
            got = generate(split, stopping_criteria=[Hang()])
        back.join()
        assert torch.equal(got, generate(toy)) and len(hosts) == 2
        ledger = wire.ledger()
        assert set(ledger.kind) >= {"step", "lost", "open", "replay"}
        assert wire.counters()["stream"] == tuple(wire.totals()["frame"])
    finally:
        split.close()
        for each in hosts:
            each.close()


def test_a_frozen_host_is_a_timeout_and_wakes_up(home, toy):
    with lk.host("toy-llama") as host:
        split = lk.split(toy, body=host.address, timeout=1)
        expected = generate(split)
        os.kill(host.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(errors.HostTimeout):
                generate(split)
            assert time.monotonic() - began < 4
        finally:
            os.kill(host.pid, signal.SIGCONT)
        assert torch.equal(generate(split), expected)
        split.close()
