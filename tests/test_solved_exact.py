"""Tutorial 08 with its blanks filled in, on fewer depths: every cell runs, and those that wait show their answers."""

import json
import re
import runpy
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parent.parent / "tutorials"
LESS = {"for depth in (1, 5):": "for depth in (1,):", "for share in (1, 2):": "for share in (2,):"}


@pytest.fixture(scope="module")
def printed():
    """What the cells print, in order, when each stub is replaced by its solution as soon as it is defined."""
    cells = json.loads((TUTORIALS / "08_exact_inversion.ipynb").read_text("utf-8"))["cells"]
    solved = runpy.run_path(str(TUTORIALS / "solutions" / "08_exact_inversion.py"))["ANSWERS"].values()
    said: list[str] = []
    names = {"print": lambda *words, sep=" ", end="": said.append(sep.join(map(str, words)))}
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for long, short in LESS.items():
        assert sum(long in source for source in sources) == 1
        sources = [source.replace(long, short) for source in sources]
    for source in sources:
        exec(source, names)
        if "return ..." in source:
            names |= {answer.__name__: answer for answer in solved if callable(answer)}
    return said


def line(printed, words):
    """The one line that holds these words."""
    (found,) = [said for said in printed if words in said]
    return found


def test_no_cell_waits_any_longer(printed):
    assert len(printed) > 15 and not any("Once 08" in words for words in printed)


def test_the_learners_search_reads_the_chat(printed):
    assert "My sister-in-law is coming on the 14th" in line(printed, "behind 1 layers, 31 tokens")


def test_the_shared_prefix_gives_the_same_vectors(printed):
    assert line(printed, "the same vectors").endswith("True")


def test_the_prior_helps_through_noise(printed):
    nearest, best = (int(re.search(r": +(\d+) of", line(printed, name))[1]) for name in ("nearest", "MAP"))
    assert nearest + 5 < best


def test_guidance_costs_less_by_far_and_is_what_the_search_counted(printed):
    full, guided = (int(re.search(r"([\d,]+) candidates", line(printed, name))[1].replace(",", ""))
                    for name in ("the whole vocabulary: ", "guided: "))  # fmt: skip
    assert 100 * guided < full and f"with {guided:,} candidates" in line(printed, "behind 1 layers, 31 tokens")


def test_every_cut_is_found(printed):
    cuts = [re.findall(r"\d+", said) for said in printed if "found behind" in said]
    assert len(cuts) == 3 and all(true == found for true, found in cuts)
