"""A class with one command: its certificates, made once, and the arguments of its host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UnsupportedOption
from .address import address_of
from .authority import Bundle
from .certificates import DAYS, make_class, read_roster
from .register import REGISTER, read_register, valid
from .serve import parser
from .tls import LOOPBACK, host_file

PORT, EACH = 18861, 4  # connections of one student: each model that was split has one until it is closed


class Prepared(NamedTuple):
    """What to tell the teacher, and the arguments of `lsplit host`."""

    says: str
    arguments: list[str]


def prepare(
    folder: Path,
    students: int | None = None,
    roster: Path | None = None,
    hosts: Sequence[str] = (),
    days: int = DAYS,
    more: Sequence[str] = (),
) -> Prepared:
    """Make the class in `folder`, or take the one that is there; `more` are further arguments of `lsplit host`.

    Raises UnsupportedOption where there is no class and nobody said how many students, AuthError for a class that
    cannot be read.
    """
    asked = len(read_roster(roster)) if roster else students
    if (folder / "host").is_dir():
        what = "is there already and is used again"
    elif (students is None) == (roster is None):
        raise UnsupportedOption(f"There is no class in {folder}; give either --students 30 or --names roster.txt.")
    else:
        make_class(folder, read_roster(roster) if roster else students or 0, hosts=hosts, days=days)
        what = "was made"
    bundle = Bundle(host_file(folder / "host"))
    many = _many(folder) or asked
    if not many or many < 1:
        raise UnsupportedOption(f"No student is known in {folder}; say how many there are: --students 30.")
    arguments = [
        "--tls", str(folder / "host"), "--bind", "0.0.0.0", "--port", str(PORT),
        "--max-clients", str(EACH * many), "--max-each", str(EACH), "--batch-window-ms", "5", *more,
    ]  # fmt: skip
    chosen = parser().parse_args(arguments)  # an argument that is none is refused before anything is said
    if chosen.quota_mb is None:  # shares that fit together: nobody's use makes somebody else's session forgotten
        arguments += ["--quota-mb", str(chosen.memory_mb / many)]
    outside = next((name for name in bundle.hosts if name not in LOOPBACK), LOOPBACK[0])
    name = chosen.bind if chosen.bind in LOOPBACK else outside
    address = address_of(name, chosen.port, tls=True) if chosen.port else "the address in the ready line"
    return Prepared(
        f"The class in {folder} {what}: {many} student{'s' * (many != 1)}, valid until {bundle.until:%Y-%m-%d}.\n"
        f"Give each student one file of {folder / 'students'}; they pass\n"
        f'  body="{address}", certificate="NAME.pem"\n'
        f"Somebody joins: lsplit certs add {folder} --students 1. Somebody leaves: lsplit certs revoke {folder} NAME.\n"
        f"Ctrl-C ends the host, the same command starts it again; the class ends when {folder} is removed.",
        arguments,
    )


def _many(folder: Path) -> int:
    """How many students a class has: files may have been handed out, and not kept."""
    if (folder / REGISTER).exists():
        return len(valid(read_register(folder)))
    return len(list((folder / "students").glob("*.pem")))  # the host's part alone, or an older class
