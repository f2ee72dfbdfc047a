"""A class from one command to the empty folder: two students over TLS, a restart in mid-lesson, somebody who left."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import errors
from lsplit_kit.remote.classroom import prepare
from lsplit_kit.remote.serve import parser

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "instructors.md").read_text("utf-8")
COMMANDS = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("lsplit ")
]
HERE = {"smollm2": "toy-llama", "18861": "0", "0.0.0.0": "127.0.0.1", "30": "2", "student-12": "student-02"}
OWN = ("--students", "--names", "--host", "--days", "--out")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
PROMPT = torch.arange(5, 14)[None]
torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(240)


class Running:
    """A command of the kit that hosts, as a person starts it in a shell, in a folder of their own."""

    def __init__(self, command, folder):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lsplit_kit", *command], cwd=folder, env=ENVIRONMENT,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.said: list[str] = []
        reader = threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True)
        reader.start()
        line = self.process.stdout.readline()
        if not line:
            reader.join(5)
            pytest.fail("".join(self.said))
        self.address = json.loads(line)["address"]

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)
        self.process.stdout.close()
        self.process.stderr.close()


def reply(model):
    return model.generate(PROMPT, max_new_tokens=6, min_new_tokens=6, do_sample=False)


def changed(folder, command):
    subprocess.run([sys.executable, "-m", "lsplit_kit", *command], cwd=folder, env=ENVIRONMENT, check=True, timeout=60)


def student(folder, name, address):
    bundle = folder / "class" / "students" / f"{name}.pem"
    return lk.split(lk.load_local("toy-llama"), body=address, certificate=str(bundle), timeout=30)


def of_the_page(word):
    """The first command of the page that begins so, for a toy on this machine."""
    command = next(words for words in COMMANDS if words[1 : 1 + len(word.split())] == word.split())
    return [HERE.get(part, part) for part in command[1:]]


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as SIGINT")
def test_a_class_from_its_one_command_to_the_empty_folder(tmp_path):
    options = ["--model", "toy-llama", "--bind", "127.0.0.1", "--port", "0"]
    command, whole = [*of_the_page("class"), *options], reply(lk.load("toy-llama")[0])
    with Running(command, tmp_path) as host:
        assert any("was made: 2 students" in line for line in host.said)
        address = host.address.replace("gpu.example.org", "127.0.0.1")  # what the students of this test can reach
        ada, bob = (student(tmp_path, f"student-0{k}", address) for k in (1, 2))
        assert torch.equal(reply(ada), whole) and torch.equal(reply(bob), whole)
        assert host.stop() == 0 and any("connected client=student-01 " in line for line in host.said)
    again = [*command[:-1], address.rpartition(":")[2]]
    with Running(again, tmp_path) as host:  # the same class, at the same port: nobody does anything
        assert any("is there already and is used again: 2 students" in line for line in host.said)
        assert torch.equal(reply(ada), whole) and torch.equal(reply(bob), whole)
        changed(tmp_path, of_the_page("certs add"))
        eve = student(tmp_path, "student-07", address)
        assert torch.equal(reply(eve), whole)
        changed(tmp_path, of_the_page("certs revoke"))  # eve and bob
        for gone in (eve, bob):
            end = time.monotonic() + 20
            with pytest.raises(errors.AuthError, match="it was revoked"):
                while time.monotonic() < end:  # a host looks at its list several times a second
                    reply(gone)
            gone.close()
        assert torch.equal(reply(ada), whole)
        changed(
            tmp_path, [*of_the_page("certs class"), "--overwrite"]
        )  # anew: the host that runs refuses all files of the old one
        end = time.monotonic() + 20
        with pytest.raises(errors.AuthError, match="is not of the class of"):
            while time.monotonic() < end:
                reply(ada)
        ada.close()
        ada = student(tmp_path, "student-01", address)
        assert torch.equal(reply(ada), whole)
        ada.close()
        assert host.stop() == 0
    shutil.rmtree(tmp_path / "class")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_commands_of_the_page_are_commands(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, what, *rest = command
    if what in ("host", "class"):  # the options of lsplit class itself are pairs; what else there is goes to the host
        mine = {at + k for at, word in enumerate(rest) if word in OWN for k in (0, 1)} if what == "class" else set()
        parser().parse_args([word for at, word in enumerate(rest) if at not in mine])
    else:
        done = subprocess.run(
            [sys.executable, "-m", "lsplit_kit", *command[1 : 2 + (what == "certs")], "--help"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        known = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        assert done.returncode == 0 and all(word in known for word in rest if word.startswith("--"))


def test_without_a_class_and_without_a_number_there_is_a_sentence(tmp_path):
    with pytest.raises(errors.UnsupportedOption, match="give either --students 30 or --names"):
        prepare(tmp_path / "class")


def test_everybody_has_a_place_and_a_share_and_what_the_teacher_says_comes_last(tmp_path):
    made = prepare(tmp_path / "class", 33, hosts=["gpu.example.org"], more=["--memory-mb", "3300"])
    options = parser().parse_args(made.arguments)
    assert options.max_clients == 33 * options.max_each and options.bind == "0.0.0.0"
    assert options.quota_mb == 100 and options.memory_mb == 3300
    assert 'body="rpycs://gpu.example.org:18861"' in made.says and "33 students" in made.says
    rehearsed = prepare(tmp_path / "class", more=["--bind", "127.0.0.1"])
    assert 'body="rpycs://127.0.0.1:18861"' in rehearsed.says and "lsplit certs revoke" in rehearsed.says
    again = prepare(tmp_path / "class", more=["--max-clients", "5", "--quota-mb", "7"])
    options = parser().parse_args(again.arguments)
    assert (options.max_clients, options.quota_mb) == (5, 7)


def test_files_that_were_handed_out_need_not_stay_at_the_host(tmp_path):
    first = prepare(tmp_path / "class", 4)
    shutil.rmtree(tmp_path / "class" / "students")
    assert prepare(tmp_path / "class").arguments == first.arguments
    (tmp_path / "class" / "register.txt").unlink()  # a machine that has the host's part alone
    assert prepare(tmp_path / "class", 4).arguments == first.arguments
    with pytest.raises(errors.UnsupportedOption, match="say how many there are"):
        prepare(tmp_path / "class")


def test_the_plan_of_lessons_has_the_notebooks_own_minutes():
    rows = re.findall(r"^\|[^|]*\]\(\.\./([^)]+\.ipynb)\)[^|]*\| (\d+ minutes) \|", PAGE, re.M)
    assert {row for row, _ in rows} >= {f"tutorials/{path.name}" for path in (ROOT / "tutorials").glob("*.ipynb")}
    for path, minutes in rows:
        head = "".join(json.loads((ROOT / path).read_text("utf-8"))["cells"][0]["source"])
        assert f"\n| {minutes}" in head, path
