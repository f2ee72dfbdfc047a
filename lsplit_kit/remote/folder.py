"""A class's folder: what is in it, who may change it just now, and what a command left that was killed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import UnsupportedOption
from ..home import home
from .register import REGISTER

KEY = "authority.pem"  # who has it can issue certificates of the class
PARTS = {"ca.pem", "README.txt", "host", "students", KEY, REGISTER}
WAIT = 30.0  # seconds for which another command is waited for
_DRAFT = re.compile(r"\.[^.]+\.[^.]+\.[0-9a-f]{8}")  # of a file that `register.replace` writes: .register.txt.0123abcd


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """One command at a time changes a class: others of this user wait; what a killed one left is removed before.

    The lock is a file in the kit's cache folder. Raises UnsupportedOption.
    """
    folder = folder.expanduser().absolute()
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
    path = home() / "locks" / f"class-{name}.lock"
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(exist_ok=True)
            held.enter_context(FileLock(path, timeout=WAIT))
        except Timeout:
            raise UnsupportedOption(
                f"Another command is changing the class in {folder}; wait until it is done, and give yours again."
            ) from None
        except OSError as err:
            raise UnsupportedOption(f"The lock {path} cannot be taken ({err.strerror or err}).") from None
        _sweep(folder)
        yield


def draft_beside(folder: Path) -> Path:
    """A new folder beside a class's, for this user only, in which one is written; raises OSError."""
    return Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))


def old_beside(draft: Path) -> Path:
    """Where the class goes whose place a draft takes."""
    return draft.with_name(f"{draft.name}.old")


def remove(folder: Path) -> None:
    """Remove a folder, also where Ctrl-C comes meanwhile; what cannot be removed stays."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove drafts, and a class that was replaced; one whose successor never came is put back."""
    ours = re.compile(rf"\.{re.escape(folder.name)}\.[a-z0-9_]{{8}}(\.old)?")
    with contextlib.suppress(OSError):
        for path in [each for each in folder.parent.iterdir() if ours.fullmatch(each.name)]:
            if path.is_symlink() or not path.is_dir() or not _is_of_a_class(path):
                continue
            if path.suffix == ".old" and not os.path.lexists(folder):
                os.rename(path, folder)
            else:
                remove(path)
    for place in (folder, folder / "host"):
        with contextlib.suppress(OSError):
            for path in [each for each in place.iterdir() if _DRAFT.fullmatch(each.name)]:
                path.unlink()


def _is_of_a_class(path: Path) -> bool:
    return all(each.name in PARTS or _DRAFT.fullmatch(each.name) for each in path.iterdir())
