"""The README's Python runs as it stands, and the pages it links to exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lsplit_kit.wire.network import PRESETS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CODECS = (ROOT / "docs" / "codecs.md").read_text("utf-8")
LATENCY = (ROOT / "docs" / "latency.md").read_text("utf-8")
DRAFTS = (ROOT / "docs" / "speculation.md").read_text("utf-8")
LEAKAGE = (ROOT / "docs" / "leakage.md").read_text("utf-8")
ATTACKS = (ROOT / "docs" / "attacks.md").read_text("utf-8")
INSTRUCTORS = (ROOT / "docs" / "instructors.md").read_text("utf-8")
HOSTING = (ROOT / "docs" / "hosting.md").read_text("utf-8")
PAGES = (README, CODECS, LATENCY, DRAFTS, LEAKAGE, ATTACKS, HOSTING, INSTRUCTORS)
BLOCKS = [code for page in PAGES for code in re.findall(r"```python\n(.*?)```", page, re.S)]


@pytest.mark.parametrize(
    "code",
    BLOCKS,
    ids=[
        "ten lines",
        "deployments",
        "pictures",
        "your own model",
        "codecs",
        "by name",
        "transform coding",
        "networks",
        "drafts",
        "leakage",
        "canaries",
        "alarms",
        "attacks",
        "hosting",
        "a class's memory",
    ],
)
def test_the_examples_run_verbatim(code, tmp_path, monkeypatch):
    if code != BLOCKS[0]:  # the first one as its reader runs it; the others need not import torch anew
        monkeypatch.chdir(tmp_path)
        exec(compile(code, "<example>", "exec"), {"__name__": "__main__"})
        return
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # reply and byte counts as printed in the README, but for what a port's digits cost
    shown = README.split("<!-- example -->\n```text\n", 1)[1].split("```", 1)[0]
    ours, theirs = (re.sub(r"\s+", " ", re.sub(r"\d{5}\n", "\n", text)).strip() for text in (done.stdout, shown))
    assert ours == theirs


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/failure-modes.md",
        "docs/codecs.md",
        "docs/latency.md",
        "docs/speculation.md",
        "docs/leakage.md",
        "docs/attacks.md",
        "docs/hosting.md",
        "docs/instructors.md",
        "docs/threat-model.md",
        "docs/errors/README.md",
    ],
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_page_of_networks_lists_the_presets():
    for net in PRESETS.values():
        numbers = (net.up_mbps, net.down_mbps, net.rtt_ms, net.jitter_ms, net.loss)
        assert f"| {' | '.join([net.name, *(f'{n:g}' for n in numbers), net.source])} |" in LATENCY
