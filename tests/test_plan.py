"""Plans: one sentence for each mistake, and a table whose sums are the model's own."""

import pytest

import lsplit_kit as lk
from lsplit_kit.errors import PlanError


@pytest.mark.parametrize(
    ("head", "tail", "word"),
    [(-1, 0, "negative"), (0, -2, "negative"), (7, 0, "out of range"), (0, 7, "out of range"), (4, 4, "overlap"),
     (3, 3, "no body"), (6, 0, "no body"), (True, 1, "whole number"),
     ("2", 1, "whole number"), (1.0, 1, "whole number")],
)  # fmt: skip
def test_mistakes(head, tail, word):
    with pytest.raises(PlanError, match=word) as error:
        lk.SplitPlan(head=head, tail=tail).check(6)
    assert str(error.value).count("\n") == 0


def test_table_adds_up():
    model, _ = lk.load("toy-llama")
    table = lk.SplitPlan(head=2, tail=1).table(model)
    assert list(table.index) == ["head", "body", "tail"]
    assert table.loc["body", "layers"] == "2-4"
    total = sum(p.numel() for p in model.parameters())
    assert table["parameters"].sum() == total
    assert table.loc["body", "memory_bytes"] == table.loc["body", "bytes"]
    assert table.loc["head", "memory_bytes"] + table.loc["body", "bytes"] == 4 * total


def test_plan_or_numbers_not_both():
    model, _ = lk.load("toy-llama")
    with pytest.raises(PlanError, match="not both"):
        lk.split(model, lk.SplitPlan(head=1, tail=1), head=2)
