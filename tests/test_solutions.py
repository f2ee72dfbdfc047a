"""The tutorials' solutions pass, the committed stubs say not attempted, wrong answers get a hint."""

import copy
import json
import re
import runpy
from functools import cache
from pathlib import Path

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.course import checks

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))


@cache
def solutions(stem):
    return runpy.run_path(str(ROOT / "tutorials" / "solutions" / f"{stem}.py"))


def cells(path):
    return json.loads(path.read_text("utf-8"))["cells"]


def checked(path):
    """Exercise id -> (the check's line, its outputs as text)."""
    found = {}
    for cell in cells(path):
        for id in re.findall(r'lk\.check\("([^"]+)"', "".join(cell["source"])):
            assert id not in found, f"{id} is checked twice"
            found[id] = json.dumps(cell.get("outputs"))
    return found


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_solutions_pass(path):
    answers = solutions(path.stem)["ANSWERS"]
    assert set(answers) == set(checked(path)) == {i for i in checks.exercises() if i.startswith(path.name[:2])}
    for id, answer in answers.items():
        result = checks.check(id, answer)
        assert result, result


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_stubs_say_not_attempted(path):
    for id, outputs in checked(path).items():
        assert f"{id}: {checks.NOT_ATTEMPTED}" in outputs, id


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_hints_in_the_notebook_are_the_checks_hints(path):
    text = "\n".join("".join(c["source"]) for c in cells(path) if c["cell_type"] == "markdown")
    for id in checked(path):
        for hint in checks.exercises()[id].hints:
            assert f"</summary>\n\n{hint}\n" in text, (id, hint)


def in_place(model, head, tail, Remote):
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([*layers[:head], Remote(layers[head : 6 - tail]), *layers[6 - tail :]])
    return model


def no_remote(model, head, tail, Remote):
    return copy.deepcopy(model)


def one_less(model, head, tail, Remote):
    grafted = copy.deepcopy(model)
    layers = grafted.model.layers
    grafted.model.layers = torch.nn.ModuleList([*layers[:head], Remote(layers[head : 5 - tail]), *layers[6 - tail :]])
    return grafted


def reversed_body(model, head, tail, Remote):
    grafted = copy.deepcopy(model)
    layers = grafted.model.layers
    body = list(layers[head : 6 - tail])[::-1]
    grafted.model.layers = torch.nn.ModuleList([*layers[:head], Remote(body), *layers[6 - tail :]])
    return grafted


def remote(**methods):
    """The right Remote with some methods replaced by wrong ones."""
    return type("Wrong", (solutions("01_cutting_a_model_in_three")["Remote"],), methods)


def drops_kwargs(self, hidden_states, **kwargs):
    for layer in self.layers:
        hidden_states = layer(hidden_states)
    return hidden_states


def first_only(self, hidden_states, **kwargs):
    return self.layers[0](hidden_states, **kwargs)


def uncounted(self, hidden_states, **kwargs):
    for layer in self.layers:
        hidden_states = layer(hidden_states, **kwargs)
    return hidden_states


WRONG = [
    ("00.1", 12, "more layers"),
    ("00.1", 31, "fewer layers"),
    ("00.1", "thirty", "whole number"),
    ("01.1", lk.SplitPlan(head=1, tail=3), "begins at layer 1 and ends with layer 2"),
    ("01.1", lk.SplitPlan(head=3, tail=3), "no layer"),
    ("01.1", (1, 2), "SplitPlan was expected"),
    ("01.2", lambda head, tail, layers: (head, -tail), "counted from the end"),
    ("01.2", lambda head, tail, layers: (head, layers - tail - 1), "does not select the body"),
    ("01.2", lambda head, tail, layers: layers, "a pair"),
    ("01.3", lambda hidden: hidden, "inherits"),
    ("01.3", lambda: remote(forward=first_only), "not those of the layers"),
    ("01.3", lambda: remote(forward=drops_kwargs), "keyword arguments"),
    ("01.3", lambda: remote(forward=uncounted), "too few"),
    ("01.4", in_place, "original model was changed"),
    ("01.4", no_remote, "0 Remotes"),
    ("01.4", one_less, "was given 1 layers"),
    ("01.4", reversed_body, "logits"),
    ("01.5", lambda left, right: torch.allclose(left, right), "last bit"),
    ("01.5", lambda left, right: (left == right).all(), "two shapes"),
    ("01.5", lambda left, right: left is right, "called different"),
    ("01.6", lambda prompt, new, width, size: prompt * width * size, "fewer bytes"),
    ("01.6", lambda prompt, new, width, size: (prompt + new) * width * size, "more bytes"),
    ("01.6", lambda prompt, new, width, size: 1.5, "whole number"),
    ("01.7", lambda seen, head, vocabulary: torch.zeros(1, seen.shape[1], dtype=torch.long), "0 of 6"),
    ("01.7", lambda seen, head, vocabulary: torch.zeros(1, 2), "2 tokens for 6"),
    ("01.7", lambda seen, head, vocabulary: [1], "tensor of token ids"),
]


@pytest.mark.parametrize(("id", "answer", "fragment"), WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_wrong_answers_get_a_sentence_and_the_first_hint(id, answer, fragment):
    if id == "01.3" and fragment != "inherits":
        answer = answer()
    result = checks.check(id, answer)
    assert result.status == checks.NOT_YET and fragment in result.message, result
    assert result.hint == checks.hint(id, 1)


def test_every_exercise_has_a_wrong_answer_here():
    assert {id for id, _, _ in WRONG} >= {i for p in TUTORIALS for i in checked(p)}
