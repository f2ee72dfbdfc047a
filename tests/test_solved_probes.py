"""Tutorial 07 with its blanks filled in, on less text: every cell runs, and those that wait for answers show them."""

import json
import re
import runpy
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parent.parent / "tutorials"
LESS = {"most=4": "most=1", "few = 16384": "few = 2048", "count=60": "count=12"}  # of text, prototypes, prompts


@pytest.fixture(scope="module")
def printed():
    """What the cells print, in order, when each stub is replaced by its solution as soon as it is defined."""
    cells = json.loads((TUTORIALS / "07_inversion_by_probes.ipynb").read_text("utf-8"))["cells"]
    solved = runpy.run_path(str(TUTORIALS / "solutions" / "07_inversion_by_probes.py"))["ANSWERS"].values()
    said: list[str] = []
    names = {"print": lambda *words, sep=" ": said.append(sep.join(map(str, words)))}
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    for long, short in LESS.items():
        assert sum(long in source for source in sources) == 1
        sources = [source.replace(long, short) for source in sources]
    for source in sources:
        exec(source, names)
        if "return ..." in source:
            names |= {answer.__name__: answer for answer in solved}
    return said


def shares(printed, words):
    """The percentages in the lines that hold these words, as whole numbers."""
    return [[int(n) for n in re.findall(r"(\d+)(?:\.\d)?%", line)] for line in printed if words in line]


def test_no_cell_waits_any_longer(printed):
    assert len(printed) > 20 and not any(words.startswith("Once ") for words in printed)


def test_the_nearest_row_reads_all_and_then_nothing(printed):
    (none,), *more = [found for found in shares(printed, "layers: ") if len(found) == 1]
    assert none == 100 and len(more) == 3 and all(share <= 1 for (share,) in more)


@pytest.mark.parametrize("attack", ["Ridge", "PrototypeLDA"])
def test_probes_read_less_behind_more_layers(printed, attack):
    mine = [share for share, _ in shares(printed, f"the kit's {attack} ")]
    assert mine == sorted(mine, reverse=True) and mine[0] > mine[-1] > 5


def test_shuffled_labels_read_no_more_than_the_control(printed):
    ((true,),), ((shuffled,),), ((often,),) = (
        shares(printed, w) for w in ("true labels:", "shuffled:", "the control:")
    )
    assert shuffled <= often < true


def test_the_learners_lens_says_what_the_kits_says(printed):
    assert [found[-1] for found in shares(printed, "tail of")] == [100, 100]
