"""The versions that both sides tell each other in hello."""

from __future__ import annotations

from functools import cache
from importlib import metadata

from .. import __version__


@cache
def versions() -> tuple[str, str, str]:
    """Return the installed versions of (lsplit_kit, torch, transformers); an absent one is "0"."""
    return __version__, _version("torch"), _version("transformers")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0"
