"""lsplit_kit: cut a generative model in three, run its body elsewhere, and see every byte that crosses.

The names below are the face; each is imported when first used, so `import lsplit_kit` loads no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "split": "face", "load": "face", "load_local": "face", "host": "face",
    "audit": "measure.audit", "deploy": "deployments", "compare": "deployments",
    "tap": "wire.tap", "Capture": "wire.capture", "codec": "quantization", "SplitPlan": "split.plan",
    "speculate": "split.speculation",
    "SplitExplorer": "widgets", "setup": "course.setup", "check": "course.checks", "doctor": "course.doctor",
    "LsplitError": "errors", "PictureSplit": "widgets", "QuantLab": "widgets",
    "WireTap": "widgets",
    "LinkLab": "widgets",
    "EmulatedLink": "wire.emulated", "Network": "wire.network",
    "CacheLab": "widgets", "AttackArena": "widgets", "HostMonitor": "widgets",
}  # fmt: skip
__all__ = ["__version__", *sorted(_HOME)]

if TYPE_CHECKING:
    from .course.checks import check as check
    from .course.doctor import doctor as doctor
    from .course.setup import setup as setup
    from .deployments import compare as compare
    from .deployments import deploy as deploy
    from .errors import LsplitError as LsplitError
    from .face import host as host
    from .face import load as load
    from .face import load_local as load_local
    from .face import split as split
    from .measure.audit import audit as audit
    from .quantization import codec as codec
    from .split.plan import SplitPlan as SplitPlan
    from .split.speculation import speculate as speculate
    from .widgets import AttackArena as AttackArena
    from .widgets import CacheLab as CacheLab
    from .widgets import HostMonitor as HostMonitor
    from .widgets import LinkLab as LinkLab
    from .widgets import PictureSplit as PictureSplit
    from .widgets import QuantLab as QuantLab
    from .widgets import SplitExplorer as SplitExplorer
    from .widgets import WireTap as WireTap
    from .wire.capture import Capture as Capture
    from .wire.emulated import EmulatedLink as EmulatedLink
    from .wire.network import Network as Network
    from .wire.tap import tap as tap


class _Face(ModuleType):
    """Looks names up where they live; the verb `split` wins over the room of the same name."""

    def __getattr__(self, name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'lsplit_kit' has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        self.__dict__[name] = value
        return value

    def __dir__(self) -> list[str]:
        return sorted(__all__)

    @property
    def split(self) -> object:
        return importlib.import_module(".face", __name__).split

    @split.setter
    def split(self, room: ModuleType) -> None:
        """Importing lsplit_kit.split binds the room here; `from lsplit_kit.split.plan import ...` still works."""


sys.modules[__name__].__class__ = _Face
