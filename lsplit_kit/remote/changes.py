"""A class that changes: somebody joins, and a file that was handed out is worth nothing any more."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ..errors import UnsupportedOption
from .authority import Authority, Bundle
from .certificates import check_many, check_names, write_bundle
from .folder import KEY, changing
from .gate import LIST
from .protocol import safe_text
from .register import Entry, read_register, replace, valid, write_register

_NUMBERED = re.compile(r"student-(\d+)")


def add_students(folder: str | os.PathLike[str], students: int | Sequence[str]) -> tuple[str, ...]:
    """Write a file for each new student of a class (a number, or names), valid as long as the class; returns the names.

    The host need not be told. A name whose certificates were all revoked can be given again. Raises
    UnsupportedOption, AuthError.
    """
    folder = Path(folder).expanduser().absolute()
    with changing(folder):
        return _add(folder, students)


def missing(folder: Path, students: int | Sequence[str]) -> int | tuple[str, ...]:
    """What `add_students` takes so that a class has so many, or these; who was revoked counts as one who was there.

    Raises UnsupportedOption.
    """
    known = {each.name.lower() for each in read_register(folder)}
    if isinstance(students, int):
        return max(0, students - len(known))
    return tuple(name for name in students if name.lower() not in known)


def _add(folder: Path, students: int | Sequence[str]) -> tuple[str, ...]:
    entries, authority = _opened(folder)
    if isinstance(students, int):
        check_many(students)
        last = max([int(found[1]) for each in entries if (found := _NUMBERED.fullmatch(each.name))], default=0)
        students = [f"student-{number:02}" for number in range(last + 1, last + 1 + students)]
    names, there = check_names(students), valid(entries)
    check_many(len(there) + len(names))
    taken = {name.lower() for name in there}
    for name in names:
        if name.lower() in taken:
            raise UnsupportedOption(
                f"{name!r} is in the class already; take another name, or revoke the old file first: "
                f"lsplit certs revoke {folder} {name}"
            )
    place, made = folder / "students", list[Path]()
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        for name in names:
            path = place / f"{name}.pem"
            if os.path.lexists(path):
                raise UnsupportedOption(f"{path} is there already, and no file of the class; move it away first.")
            made.append(path)
            write_bundle(path, authority.issue(name))
        write_register(folder, [*entries, *(Entry(path.stem, Bundle(path).serial) for path in made)])
    except BaseException as err:
        for path in made:
            path.unlink(missing_ok=True)
        if isinstance(err, OSError):
            raise UnsupportedOption(f"The class in {folder} cannot be changed ({err.strerror or err}).") from None
        raise
    return names


def revoke(folder: str | os.PathLike[str], names: Sequence[str]) -> tuple[str, ...]:
    """Make hosts refuse every certificate of these students, and remove their files here; returns who is left.

    The list is host/revoked.pem of the folder; a host that runs on it takes it into account at once, one elsewhere
    when it has a copy. Raises UnsupportedOption, AuthError.
    """
    folder = Path(folder).expanduser().absolute()
    with changing(folder):
        return _revoke(folder, names)


def _revoke(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    entries, authority = _opened(folder)
    known = {each.name for each in entries}
    for name in names:
        if name not in known:
            raise UnsupportedOption(f"{safe_text(name)!r} is not in the class; {folder / 'register.txt'} lists who is.")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    after = [each._replace(revoked=each.revoked or today) if each.name in names else each for each in entries]
    try:
        write_register(folder, after)  # first: given again, an interrupted command does the rest
        (folder / "host").mkdir(mode=0o700, exist_ok=True)
        replace(folder / "host" / LIST, authority.revoke(each.serial for each in after if each.revoked))
        for name in names:
            (folder / "students" / f"{name}.pem").unlink(missing_ok=True)
    except OSError as err:
        raise UnsupportedOption(f"The class in {folder} cannot be changed ({err.strerror or err}).") from None
    return valid(after)


def _opened(folder: Path) -> tuple[list[Entry], Authority]:
    """A class's certificates, and its authority."""
    entries = read_register(folder)
    if not (folder / KEY).exists():
        raise UnsupportedOption(
            f"The key of the class's authority is not in {folder} ({KEY}): nobody can be added or revoked without it; "
            "make another class."
        )
    authority = Authority.read(folder / KEY)
    if authority.ends < datetime.now(UTC):
        raise UnsupportedOption(f"The class in {folder} was valid until {authority.ends:%Y-%m-%d}; make another one.")
    return entries, authority
