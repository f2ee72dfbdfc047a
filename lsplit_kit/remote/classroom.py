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
from .serve import checked, parser
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
    place = ["--tls", str(folder / "host"), "--bind", "0.0.0.0", "--port", str(PORT)]
    chosen = parser().parse_args([*place, *more])
    checked(chosen, lambda _: None)  # before anything is written
    fresh = not (folder / "host").is_dir()
    if fresh and (students is None) == (roster is None):
        raise UnsupportedOption(f"There is no class in {folder}; give either --students 30 or --names roster.txt.")
    if fresh:
        make_class(folder, read_roster(roster) if roster else students or 0, hosts=hosts, days=days)
    bundle = Bundle(host_file(folder / "host"))
    many = _many(folder) or asked
    if not many or many < 1:
        raise UnsupportedOption(f"No student is known in {folder}; say how many there are: --students 30.")
    arguments = [
        *place, "--max-clients", str(EACH * many), "--max-each", str(EACH), "--batch-window-ms", "5", *more,
    ]  # fmt: skip
    if chosen.quota_mb is None:  # shares that fit together: nobody's use makes somebody else's session forgotten
        arguments += ["--quota-mb", str(chosen.memory_mb / many)]
    outside = next((name for name in bundle.hosts if name not in LOOPBACK), LOOPBACK[0])
    name = chosen.bind if chosen.bind in LOOPBACK else outside
    address = address_of(name, chosen.port, tls=True) if chosen.port else "the address in the ready line"
    what = "was made" if fresh else "is there already and is used again"
    return Prepared(
        f"The class in {folder} {what}: {many} student{'s' * (many != 1)}, valid until {bundle.until:%Y-%m-%d}.\n"
        + _other(folder, many, asked, set(hosts) - set(bundle.hosts))
        + f"Give each student one file of {folder / 'students'}; they pass\n"
        f'  body="{address}", certificate="NAME.pem"\n'
        f"Somebody joins: lsplit certs add {folder} --students 1. Somebody leaves: lsplit certs revoke {folder} NAME.\n"
        f"Ctrl-C ends the host, the same command starts it again; the class ends when {folder} is removed.",
        arguments,
    )


def _other(folder: Path, many: int, asked: int | None, hosts: set[str]) -> str:
    """What was asked for, and a class that is there is not."""
    said = ""
    if asked is not None and asked != many:
        more = f" For {asked - many} more: lsplit certs add {folder} --students {asked - many}" if asked > many else ""
        said += f"You asked for {asked}, and a class that is there stays as it is.{more}\n"
    if hosts:
        said += (
            f"Its host's certificate is not for {', '.join(sorted(hosts))}: students cannot come in under that name. "
            f"Make the class again: lsplit certs class --overwrite --out {folder} and what you gave here.\n"
        )
    return said


def _many(folder: Path) -> int:
    """How many students a class has: files may have been handed out, and not kept."""
    if (folder / REGISTER).exists():
        return len(valid(read_register(folder)))
    return len(list((folder / "students").glob("*.pem")))  # the host's part alone, or an older class
