"""Who has which certificate of a class: a text file in its folder, one line a certificate."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import UnsupportedOption

REGISTER = "register.txt"
_HEAD = "# name, serial number of the certificate, the day on which it was revoked\n"


class Entry(NamedTuple):
    """One certificate: whose it is, its serial number, and the day on which it was revoked ("" where it was not)."""

    name: str
    serial: int
    revoked: str = ""


def read_register(folder: Path) -> list[Entry]:
    """The certificates of a class's students, the first issued first; raises UnsupportedOption."""
    path = folder / REGISTER
    try:
        rows = [line.split() for line in path.read_text("ascii").splitlines() if not line.startswith("#")]
        return [Entry(name, int(serial, 16), "" if day == "-" else day) for name, serial, day in rows]
    except FileNotFoundError:
        raise UnsupportedOption(
            f"There is no {REGISTER} in {folder}: it is no class, or one that was made before classes could change."
        ) from None
    except (OSError, ValueError) as err:
        why = err.strerror if isinstance(err, OSError) else "a line is not name, serial number, day"
        raise UnsupportedOption(f"The list of certificates {path} cannot be read: {why}.") from None


def write_register(folder: Path, entries: Iterable[Entry]) -> None:
    """Write the list, all of it or nothing; raises OSError."""
    lines = [f"{each.name} {each.serial:x} {each.revoked or '-'}\n" for each in entries]
    replace(folder / REGISTER, (_HEAD + "".join(lines)).encode("ascii"))


def valid(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The names that have a certificate which was not revoked."""
    return tuple(each.name for each in entries if not each.revoked)


def replace(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file in one step: who reads it meanwhile finds the old one or the new one, whole."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
