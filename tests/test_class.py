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
from typer.testing import CliRunner

import lsplit_kit as lk
from lsplit_kit import cli, errors
from lsplit_kit.remote.certificates import make_class
from lsplit_kit.remote.changes import revoke
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


def test_a_name_that_the_hosts_certificate_lacks_is_said(tmp_path):
    folder = tmp_path / "class"
    prepare(folder, 2, hosts=["gpu.example.org"])
    assert "is not for" not in prepare(folder, 2, hosts=["GPU.example.org"]).says
    said = prepare(folder, 2, hosts=["gpu.example.org", "other.example.org"]).says
    assert "not for other.example.org: nobody comes in under that name. To make the class anew" in said


def test_files_that_were_handed_out_need_not_stay_at_the_host(tmp_path):
    first = prepare(tmp_path / "class", 4)
    shutil.rmtree(tmp_path / "class" / "students")
    assert prepare(tmp_path / "class").arguments == first.arguments
    (tmp_path / "class" / "register.txt").unlink()  # a machine that has the host's part alone
    assert prepare(tmp_path / "class", 4).arguments == first.arguments
    with pytest.raises(errors.UnsupportedOption, match="say how many there are"):
        prepare(tmp_path / "class")


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        (["--model", "toy-lama"], errors.WeightsError, "did you mean 'toy-llama'"),
        (["--model", "no/such", "--dtype", "float8"], errors.UnsupportedOption, "float8"),
        (["--model", "toy-llama", "--head", "9"], errors.PlanError, "9"),
        (["--port", "70000"], errors.UnsupportedOption, "The port must lie between"),
        (["--idle", "0"], errors.UnsupportedOption, "--idle"),
        (["--memory-mb", "0"], errors.UnsupportedOption, "memory_mb"),
        (["--no-such"], SystemExit, "2"),
    ],
)
def test_a_wrong_option_of_the_host_leaves_no_class_behind(tmp_path, more, error, words):
    with pytest.raises(error, match=words):
        prepare(tmp_path / "class", 2, more=more)
    assert not list(tmp_path.iterdir())
    made = make_class(tmp_path / "class", 2)
    with pytest.raises(error, match=words):
        prepare(made.folder, 3, more=more)
    assert len(list((made.folder / "students").iterdir())) == 2


def test_a_class_that_is_there_gets_those_who_are_missing(tmp_path):
    folder, toy = tmp_path / "class", ["--model", "toy-llama"]

    def told(**who):
        made = prepare(folder, more=toy, **who)
        most = parser().parse_args(made.arguments).max_clients // 4
        assert f"{most} student" in made.says and len(list((folder / "students").iterdir())) == most
        return made.says.partition("\n")[0]

    assert "was made: 2 students" in told(students=2)
    assert "used again, and 2 joined it (student-03 to student-04): 4 students" in told(students=4)
    revoke(folder, ["student-02"])
    assert "used again; 4 were asked for, the others were revoked and stay out: 3 students" in told(students=4)
    assert "used again; 2 were asked for, and nobody was taken out (lsplit certs revoke): 3 students" in told(
        students=2
    )
    roster = tmp_path / "roster.txt"
    roster.write_text("student-01\nStudent-02\nbo\n")
    assert "used again, and 1 joined it (bo); 3 were asked for, and nobody was taken out" in told(roster=roster)
    (folder / "authority.pem").unlink()
    assert "is used again: 4 students" in told()
    with pytest.raises(errors.UnsupportedOption, match="nobody can be added"):
        prepare(folder, 9, more=toy)


def test_advice_is_of_what_the_user_can_really_do(tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "notes.txt").touch()
    for make in (
        lambda: prepare(tmp_path / "class", 2, more=["--model", "toy-llama"]),
        lambda: make_class(tmp_path / "class", 2),
    ):
        with pytest.raises(
            errors.UnsupportedOption, match=r"is no class, .*: take another folder \(--out NAME\)"
        ) as caught:
            make()
        assert "overwrite" not in str(caught.value)
    (tmp_path / "class" / "notes.txt").unlink()
    made = make_class(tmp_path / "class", 2)
    shutil.rmtree(made.folder / "host")  # it went to the host's machine
    with pytest.raises(errors.UnsupportedOption) as caught:
        prepare(made.folder, 2, more=["--model", "toy-llama"])
    advice = re.search(r"\(lsplit (certs class --out .* --overwrite)\)", str(caught.value))[1].split()
    assert CliRunner().invoke(cli.app, [*advice, "--students", "2"]).exit_code == 0
    with pytest.raises(errors.UnsupportedOption, match="^Give either --students 30 or --names"):
        prepare(made.folder, 2, roster=tmp_path / "roster.txt")


def test_the_plan_of_lessons_has_the_notebooks_own_minutes():
    rows = re.findall(r"^\|[^|]*\]\(\.\./([^)]+\.ipynb)\)[^|]*\| (\d+ minutes) \|", PAGE, re.M)
    assert {row for row, _ in rows} >= {f"tutorials/{path.name}" for path in (ROOT / "tutorials").glob("*.ipynb")}
    for path, minutes in rows:
        head = "".join(json.loads((ROOT / path).read_text("utf-8"))["cells"][0]["source"])
        assert f"\n| {minutes}" in head, path
