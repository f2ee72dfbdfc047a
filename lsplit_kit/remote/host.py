"""A host in a child process of this one, which never outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from ..card import Card
from ..errors import HostTimeout, HostUnavailable, LsplitError, UnsupportedOption, by_code
from ..wire.watch import Watched
from .protocol import safe_text
from .sharing import Sharing
from .tls import MODES
from .watching import Parent

WHOLE_SAYS = "it reads every prompt and reply in clear; for comparison with a split"
_PACKAGES = str(Path(__file__).resolve().parents[2])


class Host(Watched, Card):
    """A running host: `.address` for a link, `.pid`, `.holds` (first layer or part, last + 1), `.close()`."""

    def __init__(self, arguments: list[str], start_seconds: float = 120.0) -> None:
        env = dict(os.environ, OMP_NUM_THREADS="1")
        env["PYTHONPATH"] = os.pathsep.join(p for p in (_PACKAGES, env.get("PYTHONPATH", "")) if p)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lsplit_kit.remote.serve", "--parent-pipe", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,  # Ctrl-C in a notebook interrupts the cell, not the host
        )
        # finalize also runs at exit; the child sees its stdin end even when this process is killed.
        self._finalizer = weakref.finalize(self, _stop, self._process, os.getpid())
        self.pid = self._process.pid
        self._tail: deque[str] = deque(maxlen=40)
        lines: queue.Queue[str] = queue.Queue()
        self._readers = [
            threading.Thread(target=_drain, args=(self._process.stderr, self._tail.append), daemon=True),
            threading.Thread(target=_drain, args=(self._process.stdout, lines.put), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            ready = json.loads(lines.get(timeout=start_seconds))
            if "error" in ready:
                self.close()
                raise by_code().get(str(ready["error"]), HostUnavailable)(safe_text(ready.get("text", "")))
            self.address, self.holds = str(ready["address"]), (int(ready["holds"][0]), int(ready["holds"][1]))
            self._of = "parts" if ready["of"] == "parts" else "layers"
            self.fingerprint, self.model = str(ready["fingerprint"]), str(ready["model"])
            self.whole = bool(ready.get("whole"))
            self.metrics = str(ready.get("metrics", ""))  # its address, "" where it serves none
            self._parent = Parent(self._process, lines)
        except queue.Empty:
            self.close()
            raise HostTimeout(f"The host did not start within {start_seconds:g} s; {self._last_words()}") from None
        except LsplitError:
            raise
        except (ValueError, KeyError, IndexError, TypeError):
            self.close()
            raise HostUnavailable(f"The host could not start: {self._last_words()}") from None
        except BaseException:
            self.close()
            raise

    @property
    def running(self) -> bool:
        """Whether the host process is alive."""
        return self._process.poll() is None

    def told(self, name: str, *args: int) -> bytes:
        """What the host tells its parent, over their own pipes: of sessions, everybody's."""
        return self._parent.told(name, *args)

    def stderr(self) -> str:
        """Return the last lines that the host wrote to its log."""
        return "\n".join(self._tail)

    def close(self) -> None:
        """End the host and wait until it is gone; a second call does nothing."""
        self._finalizer()
        for reader in self._readers:
            reader.join(1)

    def _last_words(self) -> str:
        line = next((text for text in reversed(self._tail) if text.strip()), "it said nothing.")
        return safe_text(line)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _card(self) -> tuple[str, dict[str, object]]:
        held = f"{self._of} {self.holds[0]} to {self.holds[1] - 1} of {self.model}"
        return f"Host: {self.address}", {
            **({"holds": f"{self.model}: {WHOLE_SAYS}"} if self.whole else {"body": held}),
            "process": f"{self.pid}, {'running' if self.running else 'ended'}",
        }


def host(
    model: str | os.PathLike[str] = "smollm2",
    head: int = 2,
    tail: int = 2,
    port: int = 0,
    bind: str = "127.0.0.1",
    *,
    dtype: str = "float32",
    allow_remote: bool = False,
    tls: str | os.PathLike[str] | None = None,
    auth: str = "auto",
    start_seconds: float = 120.0,
    whole: bool = False,
    loader: str | None = None,
    metrics_port: int | None = None,
    **sharing: Any,
) -> Host:
    """Start a host for a model's body in a child process; use it in a `with`, or call `.close()`.

    whole: hold ALL of the model instead (head and tail do not matter); such a host reads every prompt and reply in
    clear token ids, it is there for comparison with a split (`lk.deploy(..., "cloud")`).
    metrics_port: where it answers Prometheus on this machine's loopback, 0 for a free port (`Host.metrics`).
    sharing: how it shares itself between clients, as `lsplit host --help` explains: max_clients, max_each, memory_mb,
    quota_mb, forget_after, queue, queue_each, prefill_piece, batch_window_ms.
    tls: the host's folder of a class (`lsplit certs class`): TLS, an address rpycs://, and with auth="auto" a
    certificate from every client; auth="token" takes the token instead, "none" nothing.
    head, tail: layers that stay on the local side; port 0 takes a free one; start_seconds: for loading, what has to be
    fetched is fetched before. Raises what is wrong with an argument (PlanError, WeightsError, UnsupportedOption,
    AuthError), HostUnavailable when the child cannot start, HostTimeout.
    """
    if whole:
        head = tail = 0
    odd = [option for option in sharing if option not in Sharing._fields]
    if odd:
        raise UnsupportedOption(
            f"lk.host has no option {odd[0]!r}; of its clients it takes {', '.join(Sharing._fields)}."
        )
    shared = Sharing(**sharing).check()
    name = named(model, head, tail, dtype, fetch=loader is None)
    _port("port", port)
    if auth not in ("auto", *MODES):
        raise UnsupportedOption(f"auth takes auto, {', '.join(MODES)}; got {auth!r}.")
    if not isinstance(start_seconds, (int, float)) or not start_seconds > 0:
        raise UnsupportedOption(f"start_seconds takes seconds above zero, got {start_seconds!r}.")
    arguments = [
        "--model",
        name,
        "--head",
        str(head),
        "--tail",
        str(tail),
        "--port",
        str(port),
        "--bind",
        bind,
        "--dtype",
        str(dtype).removeprefix("torch."),
    ]
    arguments += shared.arguments()
    arguments += [] if metrics_port is None else ["--metrics-port", str(_port("metrics_port", metrics_port))]
    arguments += ["--allow-remote"] if allow_remote else []
    arguments += ["--tls", str(Path(tls).expanduser().absolute())] if tls else []
    arguments += ["--auth", auth]
    arguments += ["--whole"] if whole else []
    arguments += ["--loader", loader] if loader else []
    return Host(arguments, start_seconds)


def _port(name: str, port: object) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise UnsupportedOption(f"{name} takes a number from 0 (any free one) to 65535, got {port!r}.")
    return port


def named(model: object, head: int, tail: int, dtype: object, fetch: bool) -> str:
    """The model's name or folder, after checks and, here where a person sees the progress bar, the fetch.

    Raises UnsupportedOption, PlanError, WeightsError.
    """
    from ..models.names import check_plan, is_picture, number_format, resolve
    from ..models.partial import folder_of

    name, folder = resolve(model)
    number_format(dtype)
    check_plan(name, head, tail)
    if fetch and folder is None and not is_picture(name):  # a pipeline without a folder is in the package
        folder_of(name)
    return name


def _drain(pipe: IO[bytes], keep: Callable[[str], object]) -> None:
    """Read a pipe to its end, so that the child never blocks on it; an empty line marks the end."""
    with pipe:
        for raw in pipe:
            keep(raw.decode("utf-8", "replace").rstrip())
    keep("")


def _stop(process: subprocess.Popen, owner: int) -> None:
    """End the child: first its stdin, then SIGTERM, then SIGKILL."""
    if os.getpid() != owner:  # a fork of this process has no say over the child
        return
    with contextlib.suppress(OSError):
        process.stdin.close()
    for push in (None, process.terminate, process.kill):
        if push is not None:
            push()
        try:
            process.wait(2)
            return
        except subprocess.TimeoutExpired:
            continue
    process.wait()
