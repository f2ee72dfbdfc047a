"""Write the numbers of lsplit_kit/data/CARD.md anew from the texts themselves.

python scripts/describe_data.py
"""

from __future__ import annotations

import json
import re
from itertools import chain
from math import log2
from pathlib import Path

from lsplit_kit.data import DOMAINS, picture_captures, prompts, space
from lsplit_kit.data.canaries import CARRIERS, KINDS

CARD = Path(__file__).resolve().parent.parent / "lsplit_kit" / "data" / "CARD.md"
SHOWN = "<!-- pictures: python scripts/describe_data.py -->\n", "<!-- end of pictures -->\n"
BEGIN, END = "<!-- numbers: python scripts/describe_data.py -->\n", "<!-- end of numbers -->\n"
# Chinese and Japanese have no spaces, so there a character counts as a word.
_WORD = re.compile(r"[\u3005-\u30ff\u3400-\u9fff]|[^\W\u3005-\u30ff\u3400-\u9fff]+")


def words(text: str) -> list[str]:
    """The words and numbers of a text in lower case; a Chinese or Japanese character is a word."""
    return _WORD.findall(text.casefold())


def tables() -> str:
    """The two tables of the card, in Markdown."""
    lines = ["| Domain | Prompts | Words | Mean words | Shortest | Longest |", "|---|---:|---:|---:|---:|---:|"]
    for domain in (*DOMAINS, None):
        lengths = [len(words(prompt.text)) for prompt in prompts(domain)]
        count, total = len(lengths), sum(lengths)
        cells = (domain or "all", count, total, f"{total / count:.1f}", min(lengths), max(lengths))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "| Canary | Secrets M | Bits, log2 M | Carriers |", "|---|---:|---:|---:|"]
    lines += [f"| {kind} | {space(kind)} | {log2(space(kind)):.2f} | {len(CARRIERS[kind])} |" for kind in KINDS]
    return "\n".join(chain(lines, [""]))


def pictures() -> str:
    """The table of the recordings of pictures, in Markdown."""
    lines = ["| Recording | Cut | Codec | Prompts | Steps | Capture |", "|---|---|---|---|---:|---|"]
    for about in picture_captures():
        kept = json.loads(about.reports.read_text("utf-8"))
        words = ", ".join(row["prompt"] for row in kept["prompts"])
        steps = len(kept["said"][0]["calls"])
        shipped = "shipped" if about.path else "not shipped"
        lines.append(f"| `{about.name}` | {about.place} | `{about.codec}` | {words} | {steps} | {shipped} |")
    return "\n".join([*lines, ""])


def described(card: str) -> str:
    """The card with its tables written anew."""
    for (begin, end), table in (((BEGIN, END), tables()), (SHOWN, pictures())):
        before, rest = card.split(begin)
        card = before + begin + "\n" + table + "\n" + end + rest.split(end)[1]
    return card


if __name__ == "__main__":
    CARD.write_text(described(CARD.read_text("utf-8")), "utf-8")
