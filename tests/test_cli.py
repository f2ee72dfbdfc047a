"""The command line: what a person types, what comes back, and that no advice is cut short."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import lsplit_kit
from lsplit_kit import cli
from lsplit_kit.remote.serve import parser


def said(*arguments, code=0):
    """(stdout, stderr) of `lsplit arguments` through the program's own main()."""
    done = subprocess.run([sys.executable, "-m", "lsplit_kit", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def test_version_and_module():
    assert said("--version")[0] == f"lsplit-kit {lsplit_kit.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("lab", "/no/such/folder"), "There is no folder /no/such/folder for JupyterLab to open."),
        (("demo", "--head", "20", "--tail", "20"), "head=20 and tail=20 overlap: together 40 of 30 layers."),
        (("demo", " "), "The prompt is empty; give the model at least one word."),
        (
            ("demo", "hi", "--model", "toy-sd"),
            "toy-sd draws pictures; ask for one with lsplit demo --image TEXT --model toy-sd.",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_its_page(arguments, sentence):
    out, err = said(*arguments, code=2)
    page = err.removeprefix(f"lsplit: {sentence} (").removesuffix(")\n")
    assert out == "" and (Path(__file__).parents[1] / page).is_file(), err


def test_every_option_of_a_host_is_explained_with_its_default():
    text = parser().format_help()
    assert "--parent-pipe" not in text and "--loader" not in text
    for action in parser()._actions:
        assert action.help
    for default in ("smollm2", "float32", "127.0.0.1", "1800.0"):
        assert f"(default: {default})" in " ".join(text.split())


def test_the_doctors_advice_is_not_cut(monkeypatch):
    advice = "take two of these every morning, and " * 9 + "then call again"
    table = pd.DataFrame([["pulse", "FAIL", "none", advice]], columns=["check", "status", "found", "advice"])
    monkeypatch.setattr("lsplit_kit.course.doctor.doctor", lambda: table)
    done = CliRunner().invoke(cli.app, ["doctor"])
    assert done.exit_code == 1 and advice in done.stdout


def test_the_demo_says_what_it_does_while_it_is_silent(monkeypatch, tmp_path):
    monkeypatch.setenv("LSPLIT_HOME", str(tmp_path))
    out, _ = said("demo", "Hi", "--model", "toy-llama", "--tokens", "2")
    parts = [
        "loading toy-llama",
        "starting a host",
        "now the unsplit model",
        "tokens identical to the unsplit model: yes",
    ]
    assert [out.index(part) for part in parts] == sorted(out.index(part) for part in parts)
