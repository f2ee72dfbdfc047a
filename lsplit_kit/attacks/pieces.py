"""What a token stands for: text, or the bytes of a part of a character."""

from __future__ import annotations

from functools import cache
from typing import Any


def piece(tokenizer: Any, token: int) -> str | bytes:
    """The text of a token id; bytes where a byte-level tokenizer cut through a character."""
    text = str(tokenizer.decode([token]))
    if "\ufffd" not in text:
        return text
    signs = tokenizer.convert_ids_to_tokens(token)
    table = _bytes()
    if not signs or any(sign not in table for sign in signs):
        return text
    return bytes(table[sign] for sign in signs)


@cache
def _bytes() -> dict[str, int]:
    """The byte of every printable stand-in that byte-level vocabularies use (GPT-2's table)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {sign: byte for byte, sign in bytes_to_unicode().items()}
