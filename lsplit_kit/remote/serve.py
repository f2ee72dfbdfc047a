"""The program of a host: load a body, listen, say where on one line of JSON, end when told or orphaned."""

from __future__ import annotations

import argparse
import errno
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
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ..errors import AuthError, HostUnavailable, LsplitError, UnsupportedOption
from ..wire.events import NOTICE, log
from .address import address_of
from .allocator import Returns, one_arena
from .gate import Gate
from .host import WHOLE_SAYS
from .journal import FORMATS, LEVELS, Line, journal
from .metrics import Metrics
from .server import StrictServer
from .service import BodyService, HeldBody, service_of
from .sharing import Sharing, add_options, sharing_of
from .tls import LOOPBACK, MODES, host_file
from .token import new_token, sweep_tokens, write_token
from .watching import Child

LOADER = "lsplit_kit.models.partial:load_body"
WHOLE = "lsplit_kit.models.whole:load_whole"


def parser() -> argparse.ArgumentParser:
    """Return the options of `lsplit host`."""
    options = argparse.ArgumentParser(
        "lsplit host",
        description="Hold the body of a model (with --whole: all of it) and answer steps until Ctrl-C.",
        epilog="When it is ready it prints one line of JSON: its address, and the token file if a client needs it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    options.add_argument("--model", default="smollm2", help="a model's short name or folder")
    options.add_argument("--head", type=int, default=2, help="layers left to the local side at the start")
    options.add_argument("--tail", type=int, default=2, help="layers left to the local side at the end")
    options.add_argument(
        "--whole",
        action="store_true",
        help="hold ALL of the model, for comparison with a split: this host reads every prompt and reply in clear",
    )
    options.add_argument("--dtype", default="float32", help="number format: float32, bfloat16 or float16")
    options.add_argument("--bind", default="127.0.0.1", help="address to listen on")
    options.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    options.add_argument(
        "--allow-remote", action="store_true", help="let --bind be more than loopback, without TLS or a proof"
    )
    options.add_argument("--tls", help="the host's folder of lsplit certs class: TLS 1.3, address rpycs://")
    options.add_argument(
        "--auth",
        default="auto",
        choices=["auto", *MODES],
        help="what a client has to show; auto is a certificate of the class with --tls, the token without",
    )
    options.add_argument(
        "--metrics-port", type=int, help="answer Prometheus here, on loopback only; 0 takes a free one"
    )
    options.add_argument(
        "--log-level",
        choices=["auto", *LEVELS],
        default="auto",
        help="notice: who comes and goes; info: sessions and refused calls too; debug: steps; auto is notice with "
        "--tls, warning without",
    )
    options.add_argument("--log-format", choices=FORMATS, default="text", help="json: an object on each line of stderr")
    options.add_argument("--idle", type=float, default=1800.0, help="seconds until a silent connection ends")
    add_options(options)
    # Ends when stdin ends: the parent is gone. For lk.host, which also reads why a start failed.
    options.add_argument("--parent-pipe", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--loader", help=argparse.SUPPRESS)
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or (with --parent-pipe) the end of stdin; return the exit status."""
    args = parser().parse_args(argv)
    one_arena()
    level = args.log_level if args.log_level != "auto" else "notice" if args.tls else "warning"
    with journal(level, args.log_format):
        return _main(args)


def _main(args: argparse.Namespace) -> int:
    over, written, child, metrics = threading.Event(), list[Path](), Child(), Metrics()
    if args.parent_pipe:
        threading.Thread(target=_watch_parent, args=(over, os.getppid(), written, child), daemon=True).start()
    try:
        if args.metrics_port is not None:
            metrics.serve(args.metrics_port)
        server, body, token = _prepare(args, over)
        server.listener.listen(server.backlog)  # before the token file: a file whose port is dead may be swept away
        sweep_tokens()
        if args.auth == "token":
            # a client of this machine finds a host that listens everywhere under loopback's name
            every = (server.host, {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, ""))
            written.extend(write_token(name, server.port, token) for name in every if name)
    except (LsplitError, OSError, ValueError, ImportError, RuntimeError) as err:
        return _refused(err, args)
    try:
        worker = threading.Thread(target=server.start, daemon=True)  # it listens again, which is harmless
        worker.start()
        everywhere = bool(args.tls) and server.host in ("0.0.0.0", "::")
        ready = _ready(server, body, written, args.known_as if everywhere else "")
        metrics.watch = server.service.watch
        child.told = server.service.watch.told
        ready |= {"metrics": metrics.address} if metrics.address else {}
        if args.whole:
            ready["whole"] = True
            _say(args, f"holds {ready['model']}: {WHOLE_SAYS}", NOTICE)
        print(json.dumps(ready), flush=True)
        returns = Returns()
        while worker.is_alive() and not over.wait(0.2):
            body.pool.sweep()
            server.sweep()
            returns.look(body.pool.freed)
        if not over.is_set():
            _say(args, "ended by itself: its listening socket failed", logging.ERROR)
            return 1
    finally:
        _remove(written)  # before the port is free: a successor there writes its own under this name
        metrics.close()
        server.close()
        worker.join(2)
    return 0


def _prepare(args: argparse.Namespace, over: threading.Event) -> tuple[StrictServer, HeldBody, bytes]:
    """The server on its port, then the body: what is wrong with the arguments is said before the slow part."""
    sharing = check(args, partial(_say, args, level=logging.WARNING))
    token, gate = new_token(), _gate(args)
    try:
        server = StrictServer(
            BodyService, token, args.bind, args.port, max_clients=args.max_clients, max_each=args.max_each,
            idle=args.idle, gate=gate,
        )  # fmt: skip
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            raise HostUnavailable(
                f"Port {args.port} of {args.bind} is in use by another program; take another, or 0 for a free one."
            ) from None
        raise HostUnavailable(f"The host cannot listen on {args.bind}:{args.port} ({err.strerror or err}).") from None
    if not args.parent_pipe:
        part = "all" if args.whole else "the body"
        _say(args, f"loading {part} of {args.model} ...")
    if args.log_format == "json":  # each line of stderr is an object: no bars
        os.environ.setdefault("TQDM_DISABLE", "1")
    with redirect_stdout(sys.stderr):  # stdout carries the ready line and nothing else
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        loader = args.loader or (WHOLE if args.whole else LOADER)
        body = _loader(loader)(args.model, args.head, args.tail, args.dtype)
    for number in (signal.SIGTERM, signal.SIGINT):  # while it loads, they just end it
        signal.signal(number, lambda *_: over.set())
    body.pool = sharing.pool()
    server.service = service_of(body, sharing.turns(body.pool))
    return server, body, token


def check(args: argparse.Namespace, warn: Callable[[str], None]) -> Sharing:
    """What the options say of sharing; raises UnsupportedOption for one that makes no sense, before anything is made.

    warn: is told what a person should know of an address, and of no proof.
    """
    if args.auth == "auto":
        args.auth = "certificate" if args.tls else "token"
    check_bind(args.bind, args.allow_remote, bool(args.tls), args.auth, warn)
    if not 0 <= args.port <= 65535:
        raise UnsupportedOption(f"The port must lie between 0 (any free one) and 65535, got {args.port}.")
    if not args.idle > 0:
        raise UnsupportedOption("--idle takes a number of seconds above 0.")
    return sharing_of(args)


def _refused(err: Exception, args: argparse.Namespace) -> int:
    """Say why the host does not start, to a person, or to lk.host as a line of JSON; return the exit status."""
    known = err if isinstance(err, LsplitError) else HostUnavailable(f"{type(err).__name__}: {err}")
    if args.parent_pipe:
        print(json.dumps({"error": known.code, "text": str(known)}), flush=True)
    else:
        _say(args, f"{known} ({known.page})", logging.ERROR)
    return 2 if known is err else 1


def _say(args: argparse.Namespace, text: str, level: int = logging.INFO) -> None:
    """A sentence for whoever started the host, on stderr whatever the log's level, in the log's form."""
    if args.log_format == "json":
        text = Line("json").format(logging.LogRecord(log.name, level, "", 0, text, (), None))
    else:
        text = f"{'warning' if level == logging.WARNING else 'lsplit host'}: {text}"
    print(text, file=sys.stderr, flush=True)


def _remove(written: list[Path]) -> None:
    for path in written:
        path.unlink(missing_ok=True)


def check_bind(
    bind: str, allow_remote: bool, tls: bool = False, auth: str = "token", warn: Callable[[str], None] = print
) -> None:
    """Raise UnsupportedOption for an address other than loopback, or for no proof, without leave; warn when given.

    With TLS and a proof from every peer, other machines may come in without a word.
    """
    if auth != "token" and not tls:
        raise UnsupportedOption(f"--auth {auth} is for hosts with TLS; add --tls and the host's folder of a class.")
    try:
        local = bind == "localhost" or ipaddress.ip_address(bind).is_loopback
    except ValueError:
        local = False
    if auth == "none":
        warn(f"whoever reaches {bind} may use this host: --auth none asks nobody for a proof.")
    if local or (tls and auth != "none"):
        return
    if not allow_remote:
        raise UnsupportedOption(
            f"Binding to {bind} lets other machines in; add --allow-remote (lk.host: allow_remote=True) if meant"
            + (", or --tls with a class's certificates." if not tls else ".")
        )
    if not tls:
        warn(f"traffic to and from {bind} is not encrypted; use --tls, a network you trust, or a tunnel (ssh -L).")


def _gate(args: argparse.Namespace) -> Gate | None:
    """The host's side of TLS; a certificate that every client would refuse is refused here."""
    if not args.tls:
        return None
    from .authority import Bundle

    bundle = Bundle(host_file(args.tls))
    if bundle.until < datetime.now(UTC):
        raise AuthError(f"The certificate {bundle.path} expired on {bundle.until:%Y-%m-%d}; make a new class.")
    # A host that listens everywhere is told to people under the first name that is not loopback.
    args.known_as = next((name for name in bundle.hosts if name not in LOOPBACK), "")
    return Gate(args.tls, args.auth)


def _ready(server: StrictServer, body: HeldBody, token_file: list[Path], known_as: str) -> dict:
    from ..split.picture_host import PictureBody

    return {
        "address": address_of(known_as, server.port, tls=True) if known_as else server.address,
        **({"token_file": str(token_file[0])} if token_file else {}),
        "pid": os.getpid(),
        "holds": list(body.info.holds),
        "of": "parts" if isinstance(body, PictureBody) else "layers",
        "fingerprint": body.info.fingerprint,
        "model": body.info.model,
        "dtype": body.info.dtype,
    }


def _loader(path: str) -> Callable[[str, int, int, str], HeldBody]:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _watch_parent(over: threading.Event, parent: int, written: list[Path], child: Child) -> None:
    """Set `over` when stdin ends or the parent changed: a forked sibling may hold the pipe open."""

    def pipe() -> None:
        while raw := os.read(0, 1024):
            child.feed(raw)
        over.set()

    threading.Thread(target=pipe, daemon=True).start()
    while not over.wait(1.0):
        if os.getppid() != parent:
            over.set()
    time.sleep(5)
    _remove(written)
    os._exit(3)  # loading, or a computation, did not let go: an orphan must not stay


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # daemon threads may be inside torch, and taking the interpreter down under them can crash
