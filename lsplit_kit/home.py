"""The folder in which the kit keeps what it makes on this machine: converted models, calibrations, hosts' tokens."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from .errors import WeightsError


def home() -> Path:
    """The kit's cache folder, created when missing; the variable LSPLIT_HOME names another one."""
    override = os.environ.get("LSPLIT_HOME")
    folder = Path(override).expanduser() if override else platformdirs.user_cache_path("lsplit-kit")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"The cache folder {folder} cannot be created ({error.strerror}); "
            "set LSPLIT_HOME to a folder you may write to."
        ) from error
    return folder.absolute()
