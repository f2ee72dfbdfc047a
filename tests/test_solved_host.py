"""Tutorial 05 with its blanks filled in, on a toy and without the kills: cells that wait show their answers."""

import json
import runpy
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parent.parent / "tutorials"
NAME = "05_a_host_of_your_own"
KILLS = (
    "AtToken(",
    "host.close()",
)  # a host process each: the committed outputs of the notebook are compared with these


@pytest.fixture(scope="module")
def printed():
    """What the cells print, in order, when each stub is replaced by its solution as soon as it is defined."""
    cells = json.loads((TUTORIALS / f"{NAME}.ipynb").read_text("utf-8"))["cells"]
    solved = runpy.run_path(str(TUTORIALS / "solutions" / f"{NAME}.py"))["ANSWERS"].values()
    said: list[str] = []
    names = {"print": lambda *words, sep=" ", end="": said.append(sep.join(map(str, words)))}
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum(word in source for source in sources for word in KILLS) == 3
    try:
        for source in sources:
            if any(word in source for word in KILLS):
                continue
            exec(source.replace('"smollm2"', '"toy-llama"'), names)
            if "return ..." in source:
                names |= {answer.__name__: answer for answer in solved}
    finally:
        for name in ("first", "unsafe"):
            if name in names:
                names[name].close()
    return said


def test_no_cell_waits_any_longer(printed):
    assert len(printed) > 15 and not any("Once 05" in words for words in printed)


def test_the_learners_frames_and_parser_read_what_the_relay_heard(printed):
    assert "your frames: 14; kinds: [1]; the second: 11 51 11 58" in " ".join(printed)
    assert "(1, (8, (1, (None, 'open', ('kv', 'fp32', 'fp32'), ()))))" in printed


def test_the_kits_host_refuses_the_learners_bomb(printed):
    (grown,) = [words for words in printed if "times as many" in words]
    assert int(grown.split()[3]) >= 10 and any(words.startswith("the kit's host: ") for words in printed)


def test_the_local_side_comes_in_with_the_token_and_without_it_does_not(printed):
    with_it, without = [words for words in printed if "the kit's local side" in words]
    assert "(True, 'the host proved itself')" in with_it and '(False, "The token does not match' in without


def test_the_kits_pool_forgets_the_same_by_the_learners_rule(printed):
    held = [words for words in printed if "the host holds" in words]
    assert len(held) == 10 and held[:5] == held[5:]
