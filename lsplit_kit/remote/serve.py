"""The program of a host: load a body, listen, say where on one line of JSON, end when told or orphaned."""

from __future__ import annotations

import argparse
import importlib
import ipaddress
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout

from ..errors import LsplitError, UnsupportedOption
from .server import StrictServer
from .service import HeldBody, service_of
from .token import new_token, write_token

LOADER = "lsplit_kit.models.partial:load_body"


def parser() -> argparse.ArgumentParser:
    """Return the options of `lsplit host`."""
    options = argparse.ArgumentParser("lsplit host", description="Hold the body of a model and answer steps.")
    options.add_argument("--model", default="smollm2", help="a model's name or folder")
    options.add_argument("--head", type=int, default=2, help="layers left to the local side at the start")
    options.add_argument("--tail", type=int, default=2, help="layers left to the local side at the end")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--bind", default="127.0.0.1", help="address to listen on")
    options.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options.add_argument("--allow-remote", action="store_true", help="let --bind be more than loopback")
    options.add_argument("--max-clients", type=int, default=8)
    options.add_argument("--idle", type=float, default=1800.0, help="seconds until a silent connection ends")
    options.add_argument("--parent-pipe", action="store_true", help="end when stdin ends: the parent is gone")
    options.add_argument("--loader", default=LOADER, help=argparse.SUPPRESS)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or (with --parent-pipe) the end of stdin; return the exit status."""
    args = parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    over = threading.Event()
    if args.parent_pipe:
        threading.Thread(target=_watch_parent, args=(over, os.getppid()), daemon=True).start()
    try:
        check_bind(args.bind, args.allow_remote)
        if not 0 <= args.port <= 65535:
            raise UnsupportedOption(f"The port must lie between 0 (any free one) and 65535, got {args.port}.")
        with redirect_stdout(sys.stderr):  # stdout carries the ready line and nothing else
            import torch

            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
            body = _loader(args.loader)(args.model, args.head, args.tail, args.dtype)
        for number in (signal.SIGTERM, signal.SIGINT):  # while it loads, they just end it
            signal.signal(number, lambda *_: over.set())
        token = new_token()
        server = StrictServer(
            service_of(body), token, args.bind, args.port, max_clients=args.max_clients, idle=args.idle
        )
        path = write_token(server.host, server.port, token)
    except (LsplitError, OSError, ValueError, ImportError, RuntimeError) as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr, flush=True)
        return 1
    try:
        worker = threading.Thread(target=server.start, daemon=True)
        server.listener.listen(server.backlog)  # before the ready line; start() then listens again, which is harmless
        worker.start()
        print(json.dumps(_ready(server, body)), flush=True)
        while worker.is_alive() and not over.wait(0.2):
            pass
        if not over.is_set():
            print("The host ended by itself: its listening socket failed.", file=sys.stderr, flush=True)
            return 1
    finally:
        path.unlink(missing_ok=True)  # before the port is free: a successor there writes its own under this name
        server.close()
        worker.join(2)
    return 0


def check_bind(bind: str, allow_remote: bool) -> None:
    """Raise UnsupportedOption for an address other than loopback that was not allowed; warn when it was."""
    try:
        local = bind == "localhost" or ipaddress.ip_address(bind).is_loopback
    except ValueError:
        local = False
    if not local and not allow_remote:
        raise UnsupportedOption(f"Binding to {bind} lets other machines in; add --allow-remote if that is meant.")
    if not local:
        print(
            f"warning: traffic to and from {bind} is not encrypted; use a network you trust, or a tunnel (ssh -L).",
            file=sys.stderr,
            flush=True,
        )


def _ready(server: StrictServer, body: HeldBody) -> dict:
    return {
        "address": server.address,
        "pid": os.getpid(),
        "holds": list(body.info.holds),
        "fingerprint": body.info.fingerprint,
        "model": body.info.model,
        "dtype": body.info.dtype,
    }


def _loader(path: str) -> Callable[[str, int, int, str], HeldBody]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _watch_parent(over: threading.Event, parent: int) -> None:
    """Set `over` when stdin ends or the parent changed: a forked sibling may hold the pipe open."""

    def pipe() -> None:
        while os.read(0, 1024):
            pass
        over.set()

    threading.Thread(target=pipe, daemon=True).start()
    while not over.wait(1.0):
        if os.getppid() != parent:
            over.set()
    time.sleep(5)
    os._exit(3)  # loading, or a computation, did not let go: an orphan must not stay


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # daemon threads may be inside torch, and taking the interpreter down under them can crash
