"""Checks never raise and never tell, the doctor always answers, and setup makes runs repeat."""

import json
import os
import random
import sys

import mistune
import numpy as np
import pytest
import torch

from lsplit_kit.course import checks, doctor, ex_00
from lsplit_kit.course.calling import whole
from lsplit_kit.course.setup import setup


class Hostile:
    """An object on which everything fails."""

    def __repr__(self):
        raise RuntimeError("no repr")

    __str__ = __bool__ = __eq__ = __hash__ = __len__ = __iter__ = __call__ = __repr__

    def __getattr__(self, name):
        raise RuntimeError("no attributes")


def made(value):
    """pytest itself trips over a hostile parameter, so the class stands for its instance."""
    return Hostile() if value is Hostile else value


@pytest.fixture
def register(monkeypatch):
    monkeypatch.setattr(checks, "_REGISTRY", dict(checks.exercises()))

    def add(checker, hints=("look at the dtype", "count bytes")):
        checks.exercise("99.1", title="t", hints=hints)(checker)

    return add


def status(answer):
    return checks.check("99.1", answer).status


@pytest.mark.parametrize("answer", [None, ..., (...,), [1, ...], {"a": ...}])
def test_not_attempted(register, answer):
    register(lambda a: 1 / 0)
    assert status(answer) == checks.NOT_ATTEMPTED


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (None, "passed"),
        (True, "passed"),
        ("too few bytes", "not yet"),
        (False, "not yet"),
        (Hostile, "not yet"),
    ],
)
def test_verdicts(register, verdict, expected):
    register(lambda a: made(verdict))
    result = checks.check("99.1", 5)
    assert result.status == expected and bool(result) is (expected == "passed")
    assert ("look at the dtype" in repr(result)) is (verdict is False)


@pytest.mark.parametrize(("number", "hint"), [(0, ""), (1, "look at the dtype"), (2, "count bytes"), (3, "")])
def test_a_checker_names_the_hint_that_helps(register, number, hint):
    register(lambda a: checks.Wrong("too few", number))
    result = checks.check("99.1", 5)
    assert (result.status, result.message, result.hint) == (checks.NOT_YET, "too few", hint)


@pytest.mark.parametrize(
    "answer",
    [
        Hostile,
        object(),
        3,
        "x",
        np.zeros(3),
        torch.zeros(2, 2),
        [[[]]],
        float("nan"),
    ],
)
def test_a_check_never_raises(register, answer):
    register(lambda a: repr(a) and str(a) and a == a and 1 / 0)
    answer = made(answer)
    result = checks.check("99.1", answer)
    assert result.status == checks.NOT_YET and repr(result) and result._repr_html_()
    for real in checks.exercises():
        assert isinstance(repr(checks.check(real, answer)), str)


@pytest.mark.parametrize("error", [SystemExit(1), RecursionError(), MemoryError(), AssertionError(), OSError("x")])
def test_whatever_the_checker_raises(register, error):
    def checker(answer):
        raise error

    register(checker)
    assert status(1) == checks.NOT_YET


def test_foreign_error_texts_are_not_shown(register):
    register(lambda a: torch.testing.assert_close(torch.tensor(float(a)), torch.tensor(3072.0)))
    assert "3072" not in repr(checks.check("99.1", 1.0))
    assert status(3072.0) == checks.PASSED


def test_errors_of_the_learners_own_function_are_quoted(register):
    register(lambda f: checks.call(f, 2) == 4)

    def wrong(x):
        raise KeyError("my mistake")

    def todo(x):
        raise NotImplementedError

    assert "your code raised KeyError: 'my mistake'" in repr(checks.check("99.1", wrong))

    def empty(x):
        """Only a docstring."""

    for stub in (todo, empty, lambda x: ..., lambda x: None, lambda x: (1, ...)):
        assert status(stub) == checks.NOT_ATTEMPTED
    assert status(lambda x: x * x) == checks.PASSED
    assert status(lambda x: x) == status(5) == checks.NOT_YET


def test_errors_of_the_learners_own_class_are_quoted(register):
    class Mine:
        def __init__(self, x):
            self.x = x

        def double(self):
            raise ValueError("my mistake")

    register(lambda kind: kind(2).double() == 4)
    result = checks.check("99.1", Mine)
    assert result.message == "your code raised ValueError: my mistake" and result.hint == ""


@pytest.mark.parametrize("kind", [tuple, list])
def test_errors_of_one_of_several_functions_are_quoted(register, kind):
    def wrong(x):
        raise ValueError("my mistake")

    register(lambda pair: pair[1](2) == 4)
    assert checks.check("99.1", kind([abs, wrong])).message == "your code raised ValueError: my mistake"


def test_a_missing_return_and_a_wrong_signature_are_named(register):
    register(lambda f: checks.call(f, 2, torch.zeros(2, 3)) == 4)

    def forgot(x, y):
        z = x + x  # noqa: F841

    def one(x):
        return x

    assert checks.check("99.1", forgot).message == "your function returned None; is a `return` missing?"
    message = checks.check("99.1", one).message
    assert message.startswith("it was called as one(2, <Tensor of shape (2, 3)>), but it takes (x): ")
    assert checks.check("99.1", 5).message == "a function was expected, got int"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, 3), (np.int64(3), 3), (torch.tensor(3), 3), (True, None), (3.0, None), ("3", None), (torch.zeros(2), None)],
)
def test_whole_numbers(value, expected):
    assert whole(value) == expected


@pytest.mark.parametrize("unknown", ["77.7", 3, None, Hostile, ["00.1"]])
def test_unknown_ids_say_so(unknown):
    result = checks.check(made(unknown), 1)
    assert result.status == checks.UNKNOWN and repr(result) and result._repr_html_()


def test_hints_are_graded_and_never_raise(register):
    register(lambda a: False)
    assert checks.hint("99.1") == "look at the dtype" and checks.hint("99.1", 2) == "count bytes"
    assert "no hint" in checks.hint("99.1", 3) and "no hint" in checks.hint("99.1", 0)
    assert "no exercise" in checks.hint("77.7") and checks.hint(Hostile(), Hostile())


def test_one_id_one_exercise(register):
    register(lambda a: True)
    with pytest.raises(ValueError, match="already registered"):
        checks.exercise("99.1", title="other")(ex_00.layers)


def test_every_exercise_module_loads_and_is_complete():
    found = checks.exercises()
    assert not checks._BROKEN
    for id, each in found.items():
        assert id == each.id and each.title and each.hints and 1 <= each.difficulty <= 5 and each.minutes > 0
        assert repr(checks.check(id)) == f"{id}: not attempted"


def test_no_hint_turns_into_italics_in_a_notebook():
    found = {id: [mistune.html(hint) for hint in each.hints] for id, each in checks.exercises().items()}
    assert not {id: hints for id, hints in found.items() if any("<em>" in h or "<strong>" in h for h in hints)}


def test_html_is_escaped(register):
    register(lambda a: "<script>")
    assert "<script>" not in checks.check("99.1", 1)._repr_html_()


def test_sample_exercise():
    assert checks.check("00.1", 30)
    assert "more" in checks.check("00.1", 12).message and "whole number" in checks.check("00.1", "30").message
    assert checks.check("00.1", np.int64(30)) and checks.check("00.1", torch.tensor(30))
    assert "30" not in repr(checks.check("00.1", 12)) + checks.hint("00.1", 2)


def test_sample_exercise_agrees_with_the_model():
    from lsplit_kit.models.convert import FOLDER
    from lsplit_kit.models.home import models_home

    config = models_home() / FOLDER / "config.json"
    if not config.is_file():
        pytest.skip("smollm2 is not fetched")
    assert json.loads(config.read_text("utf-8"))["num_hidden_layers"] == ex_00.SMOLLM2_LAYERS


def test_doctor_answers_in_full(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    table = doctor.doctor()
    assert list(table.columns) == ["check", "status", "found", "advice"] and set(table.status) <= {
        "OK",
        "FAIL",
    }
    seen = table.set_index("check").status
    for name in ("Python", *(name for name, _, _ in doctor.PACKAGES)):
        assert seen[name] == "OK"
    for name in ("OMP_NUM_THREADS", "loopback socket", "kernel and Lab share one environment"):
        assert seen[name] == "OK", table
    assert (table.advice != "").eq(table.status == "FAIL").all()


def test_doctor_finds_faults(monkeypatch, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("LSPLIT_HOME", str(tmp_path / "not" / "there"))
    monkeypatch.setattr(doctor, "PACKAGES", (("rpyc", "99", None), ("torch", "1", "2"), ("no-such-kit", "1", None)))
    monkeypatch.setattr(doctor, "FREE_GIB", 1e9)
    monkeypatch.setattr(doctor.socket, "create_server", lambda *a: 1 / 0)
    found = {row.check: row for row in doctor.rows()}
    for name in (
        "rpyc",
        "torch",
        "no-such-kit",
        "OMP_NUM_THREADS",
        "loopback socket",
        "disk space",
        "weights",
    ):
        assert found[name].status == "FAIL" and found[name].advice, name


def test_doctor_sees_a_server_in_another_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_server_python", lambda: tmp_path / "bin" / "python")
    assert doctor._one_environment()[0] is False


@pytest.mark.parametrize(("text", "numbers"), [("2.13.0+cpu", (2, 13, 0)), ("5.0.0rc1", (5, 0, 0)), ("4.dev0", (4,))])
def test_version_numbers(text, numbers):
    assert doctor._numbers(text)[: len(numbers)] == numbers


def test_setup_makes_runs_repeat(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    first = (repr(setup(seed=3)), draw())
    assert first == (repr(setup(seed=3)), draw()) != (repr(setup(seed=4)), draw())
    assert first[0] == "ready: seed 3, 1 thread" and torch.get_num_threads() == 1
    assert repr(setup(0, threads=2)) == "ready: seed 0, 2 threads" and os.environ["OMP_NUM_THREADS"] == "2"
    setup()
    if "transformers" in sys.modules:
        from transformers.utils import logging

        assert logging.get_verbosity() == logging.ERROR


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": 2**32}, {"threads": 0}])
def test_setup_refuses(bad):
    with pytest.raises(ValueError, match="expected"):
        setup(**bad)
