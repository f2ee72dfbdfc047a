"""A class's certificates: an authority of its own, a certificate for the host, and one PEM file for each student."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from ..errors import UnsupportedOption
from .authority import Authority, Bundle
from .folder import KEY, PARTS, changing, draft_beside, old_beside, remove
from .protocol import safe_text
from .register import Entry, write_register
from .tls import LOOPBACK

MOST_STUDENTS, MOST_DAYS, DAYS = 1000, 3650, 200
RESERVED = {"token", "anyone", "host"}  # what the host calls a peer that has no name of its own
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_README = """A class of lsplit_kit, valid until {until:%Y-%m-%d}. Keep this folder to yourself.

host/host.pem      for the machine that runs the host, and for nobody else:
                     lsplit host --tls host
students/NAME.pem  one for each student, who is known to the host by this name:
                     lk.split(model, body="rpycs://HOST:PORT", certificate="NAME.pem")
ca.pem             no secret; all that a student needs, beside the token, with: lsplit host --tls host --auth token

authority.pem      the key of the class's authority, for nobody else and no other machine. It takes in and calls back:
                     lsplit certs add FOLDER --students 1
                     lsplit certs revoke FOLDER NAME
                   Without it (you may remove it) nothing can be added to the class, and no file called back.
register.txt       who has a certificate, and whose was revoked

The host's certificate is for {names}.
"""


class Class(NamedTuple):
    """What `make_class` wrote: its folder, the names of the host's certificate, the students, and the last day."""

    folder: Path
    hosts: tuple[str, ...]
    students: tuple[str, ...]
    until: datetime


def make_class(
    folder: str | os.PathLike[str] = "class",
    students: int | Sequence[str] = 30,
    *,
    hosts: Sequence[str] = (),
    days: int = DAYS,
    overwrite: bool = False,
) -> Class:
    """Write a class of `students` (a number, or names) to `folder`, all of it or nothing; returns what it wrote.

    hosts: names and addresses of the host's machine beside this machine's name and loopback; days: how long it is
    valid; overwrite: replace a class that is there. Raises UnsupportedOption.
    """
    folder = Path(folder).absolute()
    names = _numbered(students) if isinstance(students, int) else check_names(students)
    known = _host_names(hosts)
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= MOST_DAYS:
        raise UnsupportedOption(f"A class is valid for 1 to {MOST_DAYS} days, got {days!r}.")
    now = datetime.now(UTC).replace(microsecond=0)
    made = Class(folder, known, names, now + timedelta(days=days))
    try:
        with changing(folder):
            _check_place(folder, overwrite)
            draft = draft_beside(folder)
            try:
                _write(draft, made, Authority(now - timedelta(days=1), made.until))  # clocks differ
                _move(draft, folder, overwrite)
            finally:
                remove(draft)
    except OSError as err:
        raise UnsupportedOption(f"The class cannot be written to {folder} ({err.strerror or err}).") from None
    return made


def read_roster(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names in a text file, one a line; blank lines and those that begin with # do not count."""
    try:
        lines = Path(path).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        why = err.strerror if isinstance(err, OSError) else "it is no text in UTF-8"
        raise UnsupportedOption(f"The list of names {path} cannot be read: {why}.") from None
    return check_names([line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")])


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """The students' names, which become file names and common names; raises UnsupportedOption."""
    found, seen = tuple(names), set[str]()
    check_many(len(found))
    for name in found:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
            raise UnsupportedOption(
                f"{safe_text(name)!r} cannot be a student's name: it becomes a file name, so it takes 1 to 64 of the "
                "letters a to z, digits, and . _ - @ between them."
            )
        if name.lower() in seen | RESERVED:  # file systems may not tell capitals apart
            why = "is in the list twice" if name.lower() in seen else "is a word that the host uses itself"
            raise UnsupportedOption(f"The name {name!r} {why}; give every student a name of their own.")
        seen.add(name.lower())
    return found


def _numbered(many: int) -> tuple[str, ...]:
    check_many(many)
    return tuple(f"student-{number:0{max(2, len(str(many)))}}" for number in range(1, many + 1))


def check_many(many: int) -> None:
    """Raise UnsupportedOption for a number of students that no class has."""
    if isinstance(many, bool) or not 1 <= many <= MOST_STUDENTS:
        raise UnsupportedOption(f"A class has 1 to {MOST_STUDENTS} students, got {many}.")


def _host_names(hosts: Sequence[str]) -> tuple[str, ...]:
    """Loopback, `hosts`, and this machine's name where it is one, each once."""
    for host in hosts:
        if not _is_host(host):
            raise UnsupportedOption(
                f"{safe_text(host)!r} is no machine's name or address; write it as in rpycs://NAME:PORT, without the "
                "port: gpu.example.org or 192.0.2.7."
            )
    here = socket.gethostname()
    return tuple(dict.fromkeys([*LOOPBACK, *hosts, *([here] if _is_host(here) else [])]))


def _is_host(name: object) -> bool:
    if not isinstance(name, str):
        return False
    try:
        return not ipaddress.ip_address(name).is_unspecified
    except ValueError:
        labels = name.split(".")
        return len(name) <= 253 and all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdecimal()


def _check_place(folder: Path, overwrite: bool) -> None:
    if not folder.parent.is_dir():
        raise UnsupportedOption(f"There is no folder {folder.parent} to put the class in.")
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    inside = set[str]()
    if folder.is_dir() and not folder.is_symlink():
        inside = {each.name for each in folder.iterdir()}
        bundles = [each for part in ("host", "students") for each in (folder / part).glob("*")]
        inside |= {each.name for each in bundles if each.suffix != ".pem"}
    if "ca.pem" not in inside or inside - PARTS:
        raise UnsupportedOption(
            f"{folder} is there already, and is no class, or holds other files as well; it is not replaced: take "
            "another folder (--out NAME)."
        )
    if not overwrite:
        raise UnsupportedOption(
            f"There is a class in {folder} already; take another folder (--out NAME), or replace it (lsplit certs "
            f"class --out {folder} --overwrite): bundles that were handed out are worth nothing then."
        )


def _write(folder: Path, made: Class, authority: Authority) -> None:
    for part in ("host", "students"):
        (folder / part).mkdir(mode=0o700)
    write_bundle(folder / "host" / "host.pem", authority.issue("host", made.hosts))
    entries = []
    for name in made.students:
        path = folder / "students" / f"{name}.pem"
        write_bundle(path, authority.issue(name))
        entries.append(Entry(name, Bundle(path).serial))
    write_register(folder, entries)
    write_bundle(folder / KEY, authority.key_pem)
    (folder / "ca.pem").write_bytes(authority.pem)
    (folder / "README.txt").write_text(_README.format(until=made.until, names=", ".join(made.hosts)), "utf-8")


def write_bundle(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _move(draft: Path, folder: Path, overwrite: bool) -> None:
    """Put the new class where it belongs; an old one is out of the way for a moment, and back if that fails."""
    old = old_beside(draft)
    if not overwrite or not os.path.lexists(folder):
        try:
            os.rename(draft, folder)  # onto a folder with something in it, which somebody made meanwhile, it fails
        except OSError:
            _check_place(folder, overwrite)
            raise
        return
    try:
        os.rename(folder, old)
        os.rename(draft, folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.rename(old, folder)
        raise
    finally:
        if os.path.lexists(folder):
            remove(old)
