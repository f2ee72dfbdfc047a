"""Bars: drawn for long work, silent where asked, and never between a loop and its items."""

import subprocess
import sys

import pytest

LOOP = "from lsplit_kit.progress import progress; print(*progress({items}, 'reading', {total}, {least}))"


def run(items, total=None, least=1, **settings):
    code = LOOP.format(items=items, total=total, least=least)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**settings}, check=True)
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize("items, total", [("range(3)", None), ("iter(range(3))", 3)])
def test_long_work_has_a_titled_bar(items, total):
    said, bar = run(items, total)
    assert said == ["0", "1", "2"] and "reading" in bar and "0/3" in bar


@pytest.mark.parametrize("least, settings", [(4, {}), (1, {"TQDM_DISABLE": "1"})])
def test_short_work_and_silenced_work_draw_nothing(least, settings):
    assert run("range(3)", least=least, **settings) == (["0", "1", "2"], "")
