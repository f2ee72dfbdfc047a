"""Tutorial 06 with its blanks filled in: every cell runs, and those that wait for answers show them."""

import json
import runpy
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parent.parent / "tutorials"


@pytest.fixture(scope="module")
def printed():
    """What the cells print, in order, when each stub is replaced by its solution as soon as it is defined."""
    cells = json.loads((TUTORIALS / "06_latency.ipynb").read_text("utf-8"))["cells"]
    solved = runpy.run_path(str(TUTORIALS / "solutions" / "06_latency.py"))["ANSWERS"].values()
    said: list[str] = []
    names = {"print": lambda *words, sep=" ": said.append(sep.join(map(str, words)))}
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        exec(source, names)
        if "return ..." in source:
            names |= {answer.__name__: answer for answer in solved}
    return said


def test_no_cell_waits_any_longer(printed):
    assert len(printed) > 8 and not any(words.startswith("Once ") for words in printed)


def test_the_learners_sum_is_the_clock(printed):
    (words,) = [words for words in printed if words.startswith("your sum")]
    first, clock = (part.split(": ")[1].split(" s")[0] for part in words.split("; "))
    assert first == clock


def test_drafting_pays_far_away_and_not_with_dear_drafts(printed):
    (words,) = [words for words in printed if "80 ms" in words and "accepted" in words]
    cheap, dear = ([line.split() for line in table.splitlines()[2:]] for table in words.split("\n\n"))
    assert all(int(near) <= int(far) <= int(farther) for _, near, far, farther in cheap + dear)
    assert dear[0][1] == "0" and int(cheap[-1][2]) > 4


def test_the_best_number_of_pieces_is_neither_one_nor_all(printed):
    (words,) = [words for words in printed if "best: " in words]
    assert 1 < int(words.split("best: ")[1]) < 64
