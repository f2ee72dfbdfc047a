"""Folders of models, and the one way in which the kit publishes a folder of files into it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from lsplit_kit.errors import WeightsError
from lsplit_kit.home import home


def models_home() -> Path:
    """The folder that holds the converted named models."""
    return home() / "models"


def toys_home() -> Path:
    """The folder that holds toys written to disk."""
    return home() / "toys"


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one it came from, says that the disk is full."""
    seen: BaseException | None = error
    while seen is not None:
        # Libraries written in Rust report the condition as text only, so the text is looked at as well.
        if getattr(seen, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def require_space(folder: Path, needed: int) -> None:
    """Raise WeightsError unless the disk of `folder` has `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WeightsError(
            f"The disk of {folder} is full: {needed / 1e6:.0f} MB are needed and "
            f"{free / 1e6:.0f} MB are free; free some space or set LSPLIT_HOME to another "
            "disk."
        )


def publish(target: Path, fill: Callable[[Path], None], complete: Callable[[Path], bool]) -> Path:
    """Return `target`, made by `fill` in a sibling folder and renamed into place when it is not `complete`.

    Safe against two processes at once (one fills, the other waits) and against being killed half-way: a
    folder under its final name is always whole, and the next process that holds the lock removes leftovers.
    Raises WeightsError when the disk is full.
    """
    if complete(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            for old in target.parent.glob(f".{target.name}.partial-*"):
                shutil.rmtree(old, ignore_errors=True)  # only a killed process leaves one: we hold the lock
            if complete(target):
                return target
            staging = target.parent / f".{target.name}.partial-{os.getpid()}"
            staging.mkdir()
            try:
                fill(staging)
                sync_tree(staging)
                if target.exists():
                    shutil.rmtree(target)  # an incomplete or damaged one, by the check above
                os.replace(staging, target)
                sync_folder(target.parent)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except WeightsError:
        raise
    except Exception as error:
        if is_disk_full(error):
            raise WeightsError(
                f"The disk is full while {target} is written; free some space or set LSPLIT_HOME to another disk."
            ) from error
        if isinstance(error, OSError):
            raise WeightsError(f"{target} cannot be written ({error.strerror or error}).") from error
        raise
    return target


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder` to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, where the system has a way to do so."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees either the old contents or the new, never a part."""
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(staging, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
