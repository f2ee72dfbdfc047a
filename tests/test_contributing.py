"""The recipes of CONTRIBUTING.md, run as they stand there."""

import re
import sys
from pathlib import Path

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.course import checks
from lsplit_kit.models import toys
from lsplit_kit.quantization import casts, registry

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def recipe(title):
    """The Python block of a chapter."""
    return re.search(rf"## {title}\n.*?```python\n(.*?)```", TEXT, re.S)[1]


def test_the_shell_recipes_name_what_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)", TEXT.split("## The house")[0])) <= targets
    for path in re.findall(r"[\w/]+\.(?:py|ipynb)\b", TEXT):
        made = path.rpartition("/")[2] in {"ex_99.py", "ex_NN.py", "NN_verb_or_question.ipynb"}
        assert made or any((ROOT / folder / path).exists() for folder in ("", "lsplit_kit", "tests")), path


def test_every_room_that_is_named_exists():
    rooms = re.search(r"rooms above it: (.*?)\. `tests", TEXT, re.S)[1].replace("\n", " ").split(", ")
    for room in rooms:
        path = ROOT / "lsplit_kit" / room.strip()
        assert path.is_dir() or path.with_suffix(".py").is_file(), room


def test_a_codec():
    try:
        exec(recipe("A codec"), vars(casts))
        for shape in ((1, 5, 64), (3, 8), (0, 4), (2, 0)):
            x = torch.rand(shape) * 2 - 1
            coded = lk.codec("mulaw").encode(x)
            assert len(coded.payload) == x.numel()
            assert ((lk.codec("mulaw").decode(coded) - x).abs() <= x.abs() / 30 + 1e-3).all()
        lk.split("toy-llama", body="loopback", codec="mulaw").generate("Hi", max_new_tokens=2)
    finally:
        registry._FAMILIES.pop("mulaw", None)
        registry._PLAIN.remove("mulaw")
        registry._codec.cache_clear()
        del casts.MuLaw


def test_an_architecture():
    try:
        exec(recipe("An architecture"), vars(toys))
        model, ids = toys.build_toy("toy-olmo"), torch.arange(3, 20)[None]
        options = dict(max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True)
        whole = model.generate(ids, **options)
        for head, tail in ((0, 0), (2, 2), (5, 0), (1, 3)):
            ours = lk.split(model, head=head, tail=tail).generate(ids, **options)
            assert torch.equal(whole.sequences, ours.sequences)
            assert all(map(torch.equal, whole.logits, ours.logits)), (head, tail)
    finally:
        toys.TOYS.pop("toy-olmo", None)


def test_an_exercise():
    try:
        exec(recipe("An exercise"), {"__name__": "ex_99"})
        assert lk.check("99.1", lambda width: 4 * width)
        assert not lk.check("99.1", lambda width: width)
        with pytest.raises(ValueError, match="already registered by ex_99"):
            exec(recipe("An exercise"), {"__name__": "ex_98"})
    finally:
        checks._REGISTRY.pop("99.1", None)


def test_every_chapter_of_the_course_loads():
    """A file whose ids clash is skipped for the learner's sake; here it is a failure that names it."""
    checks.exercises()
    assert not checks._BROKEN


def test_a_chapter_whose_ids_clash_fails_loudly(tmp_path, monkeypatch):
    import lsplit_kit.course as room

    taken = next(iter(checks.exercises()))
    (tmp_path / "ex_98.py").write_text(recipe("An exercise").replace("99.1", taken), "utf-8")
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])
    monkeypatch.setattr(checks, "_BROKEN", {})
    checks.exercises()
    assert checks._BROKEN == {"ex_98": "ValueError"}
    sys.modules.pop("lsplit_kit.course.ex_98", None)
