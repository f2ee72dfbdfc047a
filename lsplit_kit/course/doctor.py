"""The environment doctor: one row a check, OK or FAIL, and what to do about it. Fetches nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

# Distribution, lowest version that works, first that does not; a test compares this with pyproject.toml.
PACKAGES: tuple[tuple[str, str, str | None], ...] = (
    ("torch", "2.4", None),
    ("transformers", "5.20", None),
    ("diffusers", "0.40", None),
    ("rpyc", "6.0.2", "6.1"),
    ("cryptography", "43", None),
    ("prometheus-client", "0.20", None),
    ("plotly", "6.1", "8"),
    ("anywidget", "0.9.13", None),
    ("ipywidgets", "8.1", "9"),
    ("nbformat", "5", None),
)
FREE_GIB = 2.0


class Row(NamedTuple):
    """One line of the doctor's table: what was checked, OK or FAIL, what was found, what to do."""

    check: str
    status: str
    found: str
    advice: str


def doctor() -> pd.DataFrame:
    """Check this environment: a table with the columns check, status (OK or FAIL), found, advice."""
    import pandas as pd

    return pd.DataFrame(rows(), columns=list(Row._fields))


def rows() -> list[Row]:
    """The same checks as plain rows, for when pandas itself is what is missing; never raises."""
    checks: list[tuple[str, Callable[[], tuple[bool, str, str]]]] = [("Python", _python)]
    checks += [(name, lambda n=name, lo=lo, hi=hi: _package(n, lo, hi)) for name, lo, hi in PACKAGES]  # type: ignore[misc]
    checks += [
        ("kernel and Lab share one environment", _one_environment),
        ("OMP_NUM_THREADS", _threads),
        ("loopback socket", _loopback),
        ("disk space", _disk),
        ("weights", _weights),
    ]
    return [_row(name, look) for name, look in checks]


def _row(name: str, look: Callable[[], tuple[bool, str, str]]) -> Row:
    try:
        good, found, advice = look()
    except Exception as error:  # a doctor that falls over tells nobody anything
        good, found, advice = False, type(error).__name__, str(error)[:80]
    return Row(name, "OK" if good else "FAIL", found, "" if good else advice)


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(\.\d+)*", version)  # without local labels and pre-release tags
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def _python() -> tuple[bool, str, str]:
    found = ".".join(map(str, sys.version_info[:3]))
    return (3, 11) <= sys.version_info[:2] < (3, 14), found, "use Python 3.11, 3.12 or 3.13"


def _package(name: str, low: str, high: str | None) -> tuple[bool, str, str]:
    bounds = f"{name}>={low}" + (f",<{high}" if high else "")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False, "missing", f"pip install '{bounds}'"
    good = _numbers(found) >= _numbers(low) and (high is None or _numbers(found) < _numbers(high))
    return good, found, f"pip install '{bounds}'"


def _one_environment() -> tuple[bool, str, str]:
    advice = 'install the kit where Lab runs: pip install -e ".[notebooks]", then start Lab with: lsplit lab'
    if importlib.util.find_spec("jupyterlab") is None:
        return False, "no JupyterLab beside this Python", advice
    server = _server_python()
    prefix = Path(sys.prefix).absolute()
    if server is not None and server.is_absolute() and prefix not in server.parents:
        return False, "the server runs another Python", advice
    # Started from outside a kernel, the question is which Python a new kernel would be.
    from jupyter_client.kernelspec import KernelSpecManager

    kernel = Path(KernelSpecManager().get_kernel_spec("python3").argv[0])
    if server is None and kernel.is_absolute() and prefix not in kernel.parents:
        return (
            False,
            "the python3 kernel is another Python",
            "remove the stale kernel: jupyter kernelspec remove python3",
        )
    return True, "yes", advice


def _server_python() -> Path | None:
    """The Python that started this kernel, or None outside a kernel."""
    parent = os.environ.get("JPY_PARENT_PID", "")
    if not parent.isdigit() or importlib.util.find_spec("psutil") is None:
        return None
    import psutil

    try:
        return Path(psutil.Process(int(parent)).cmdline()[0])
    except (psutil.Error, IndexError):
        return None


def _threads() -> tuple[bool, str, str]:
    found = os.environ.get("OMP_NUM_THREADS")
    return (
        found == "1",
        found or "not set",
        "run lsplit_kit.setup(), or set OMP_NUM_THREADS=1 before Lab starts",
    )


def _loopback() -> tuple[bool, str, str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(2)
        with socket.create_connection(server.getsockname(), timeout=2) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"!")
                far.settimeout(2)
                good = far.recv(1) == b"!"
    return good, "usable" if good else "no answer", "a firewall blocks 127.0.0.1: hosts cannot be reached"


def _disk() -> tuple[bool, str, str]:
    from lsplit_kit.models.home import models_home

    folder = models_home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    good = free >= FREE_GIB
    # A lesson that prints this table must print the same tomorrow, so no number when all is well.
    return good, "enough" if good else f"{free:.1f} GiB free", f"free {FREE_GIB:.0f} GiB for the cache folder"


def _weights() -> tuple[bool, str, str]:
    from lsplit_kit.models.convert import FOLDER, is_complete
    from lsplit_kit.models.home import models_home

    good = is_complete(models_home() / FOLDER)
    return (
        good,
        "smollm2" if good else "no smollm2 yet",
        "fetch once, with a network: lsplit_kit.load('smollm2')",
    )
