"""The kit's own texts: prose, chat, program code and other languages, one part to calibrate with and one held back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UnsupportedOption

DOMAINS, PARTS = ("prose", "chat", "code", "languages"), ("calibrate", "heldout")
_FOLDER = Path(__file__).parent / "texts"


def corpus(domain: str, part: str = "heldout") -> list[str]:
    """The passages of a domain; a chat's turns begin with "user: " or "assistant: ". Raises UnsupportedOption."""
    if domain not in DOMAINS or part not in PARTS:
        raise UnsupportedOption(f"The texts are {', '.join(DOMAINS)}, each in {' and '.join(PARTS)}.")
    return (_FOLDER / f"{domain}.{part}.txt").read_text("utf-8").strip("\n").split("\n%\n")


def turns(dialogue: str) -> list[dict[str, str]]:
    """A dialogue as chat messages."""
    parts = re.split(r"^(user|assistant): ", dialogue, flags=re.M)[1:]
    return [{"role": who, "content": said.strip()} for who, said in zip(parts[::2], parts[1::2], strict=True)]


def windows(tokenizer: Any, domain: str, part: str = "heldout", window: int = 512) -> list[Tensor]:
    """Token ids [T], T <= window: each dialogue under the chat template, or all passages in pieces of equal length."""
    passages = corpus(domain, part)
    if domain == "chat" and getattr(tokenizer, "chat_template", None):
        texts = [tokenizer.apply_chat_template(turns(passage), tokenize=False) for passage in passages]
        return [tokenizer(text, return_tensors="pt").input_ids[0, :window] for text in texts]
    # verbose=False: cut into windows right away, so a warning of its whole length would mislead
    ids = tokenizer("\n\n".join(passages), return_tensors="pt", verbose=False).input_ids[0]
    return [piece for piece in ids.split(window) if len(piece) > 1]


def shared(pieces: list[Tensor]) -> int:
    """How many first tokens all pieces have in common, such as a chat template's own message."""
    shortest = min(map(len, pieces))
    same = [all(int(p[i]) == int(pieces[0][i]) for p in pieces) for i in range(shortest)]
    return same.index(False) if False in same else shortest
