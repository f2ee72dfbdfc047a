"""A class with one command: its certificates, made once, and the arguments of its host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import UnsupportedOption
from .address import address_of
from .authority import Bundle
from .certificates import DAYS, check_many, make_class, read_roster
from .changes import add_students, missing
from .folder import changing
from .host import named
from .register import REGISTER, read_register, valid
from .serve import check, parser
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
    """Make the class in `folder`, or take the one that is there, with those who are missing; `more` are further
    arguments of `lsplit host`, and are checked before anything is written.

    Raises UnsupportedOption, also where there is no class and nobody said how many students; AuthError for a class
    that cannot be read; PlanError and WeightsError for a model.
    """
    with changing(folder):
        there = (folder / "host").is_dir()  # after a killed command was tidied up
    if (students is None) == (roster is None) and not (there and students is None):
        why = f"There is no class in {folder}; give" if students is None else "Give"
        raise UnsupportedOption(f"{why} either --students 30 or --names roster.txt.")
    asked = read_roster(roster) if roster else students
    if isinstance(asked, int):
        check_many(asked)
    bundle = Bundle(host_file(folder / "host")) if there else None
    joining, many = _joining(folder, asked) if there else ((), _count(asked))
    if not many:
        raise UnsupportedOption(f"No student is known in {folder}; say how many there are: --students 30.")
    arguments = [
        "--tls", str(folder / "host"), "--bind", "0.0.0.0", "--port", str(PORT),
        "--max-clients", str(EACH * many), "--max-each", str(EACH), "--batch-window-ms", "5", *more,
    ]  # fmt: skip
    chosen = parser().parse_args(arguments)
    check(chosen, lambda warning: None)  # the host itself says it
    head, tail = (0, 0) if chosen.whole else (chosen.head, chosen.tail)
    named(chosen.model, head, tail, chosen.dtype, fetch=chosen.loader is None)
    says = "was made"
    if bundle is None:
        assert asked is not None
        make_class(folder, asked, hosts=hosts, days=days)
        bundle = Bundle(host_file(folder / "host"))
    else:
        names = add_students(folder, joining) if joining else ()
        says = f"is there already and is used again{_compared(many, asked, names)}"
    if chosen.quota_mb is None:  # shares that fit together: nobody's use makes somebody else's session forgotten
        arguments += ["--quota-mb", str(chosen.memory_mb / many)]
    outside = next((name for name in bundle.hosts if name not in LOOPBACK), LOOPBACK[0])
    name = chosen.bind if chosen.bind in LOOPBACK else outside
    address = address_of(name, chosen.port, tls=True) if chosen.port else "the address in the ready line"
    return Prepared(
        f"The class in {folder} {says}: {many} student{'s' * (many != 1)}, valid until {bundle.until:%Y-%m-%d}.\n"
        f"{_unnamed(folder, hosts, bundle)}Give each student one file of {folder / 'students'}; they pass\n"
        f'  body="{address}", certificate="NAME.pem"\n'
        f"Somebody joins: lsplit certs add {folder} --students 1. Somebody leaves: lsplit certs revoke {folder} NAME.\n"
        f"Ctrl-C ends the host, the same command starts it again; the class ends when {folder} is removed.",
        arguments,
    )


def _unnamed(folder: Path, hosts: Sequence[str], bundle: Bundle) -> str:
    """What a person should know where the host's certificate, which is there already, lacks a name that was given."""
    known = {name.lower() for name in bundle.hosts}
    lacks = [host for host in hosts if host.lower() not in known]
    if not lacks:
        return ""
    return (
        f"The host's certificate is not for {', '.join(lacks)}: nobody comes in under that name. To make the class "
        f"anew, with new files for all: lsplit certs class --overwrite --out {folder} and the same names.\n"
    )


def _count(students: int | Sequence[str] | None) -> int:
    return students if isinstance(students, int) else len(students or ())


def _compared(many: int, asked: int | Sequence[str] | None, new: Sequence[str]) -> str:
    """What a person should know where a class that is used again is not quite what was asked for."""
    said = f", and {len(new)} joined it ({new[0]}{f' to {new[-1]}' * (len(new) > 1)})" if new else ""
    if asked is not None and many < _count(asked):
        said += f"; {_count(asked)} were asked for, the others were revoked and stay out"
    if asked is not None and many > _count(asked):
        said += f"; {_count(asked)} were asked for, and nobody was taken out (lsplit certs revoke)"
    return said


def _joining(folder: Path, asked: int | Sequence[str] | None) -> tuple[int | Sequence[str], int]:
    """Who is to join a class that is there, and how many it has then: files may have been handed out, and not kept."""
    if not (folder / REGISTER).exists():  # the host's part alone, or an older class
        return (), _count(asked) or len(list((folder / "students").glob("*.pem")))
    joining = () if asked is None else missing(folder, asked)
    return joining, len(valid(read_register(folder))) + _count(joining)
