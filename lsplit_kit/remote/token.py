"""Both sides prove that they hold the same token before RPyC sees a byte; the token itself never crosses."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import AuthError
from ..home import home
from .stream import FastStream, part

MAGIC = b"LSPLIT1\n"
_NONCE, _MAC = 16, 32
TLS_HERE = b"LSPLITS\n" + bytes(_NONCE + _MAC - 8)  # a host with TLS to a peer without, in the answer's place


def new_token() -> bytes:
    """Return a fresh random token of 32 bytes."""
    return secrets.token_bytes(32)


def _mac(token: bytes, role: bytes, client: bytes, host: bytes) -> bytes:
    return hmac.new(token, role + client + host, hashlib.sha256).digest()


def prove_to_host(stream: FastStream, token: bytes | Callable[[], bytes], seconds: float = 5.0) -> None:
    """The local side of the handshake; raises AuthError when the host does not hold `token`, EOFError.

    A token that has to be looked for is looked for when the host has answered as one that wants it.
    """
    end, mine = time.monotonic() + seconds, secrets.token_bytes(_NONCE)
    stream.write(MAGIC + mine, end)
    answer = bytes(stream.read(_NONCE + _MAC, end))
    if answer == TLS_HERE:
        raise AuthError("This host speaks TLS only; write rpycs:// in its address, and give certificate= your bundle.")
    token = token if isinstance(token, bytes) else token()
    theirs, proof = answer[:_NONCE], answer[_NONCE:]
    if not hmac.compare_digest(proof, _mac(token, b"host", mine, theirs)):
        raise AuthError("The token does not match the host's; use the token file of the host that runs now.")
    stream.write(_mac(token, b"client", mine, theirs), end)


def prove_to_client(stream: FastStream, token: bytes, seconds: float = 5.0) -> None:
    """The host's side of the handshake; raises AuthError when the peer does not hold `token`, EOFError."""
    end = time.monotonic() + seconds
    first = bytes(stream.read(len(MAGIC), end))  # read alone: a stranger is sent away at once
    if first.startswith(b"\x16\x03"):  # TLS: its own error for an answer that is none tells the peer's person
        stream.write(MAGIC, end)
        part(stream.sock)
        raise AuthError("The peer speaks TLS, which this host does not.")
    if first != MAGIC:
        raise AuthError("The peer does not speak this wire.")
    theirs, mine = bytes(stream.read(_NONCE, end)), secrets.token_bytes(_NONCE)
    stream.write(mine + _mac(token, b"host", theirs, mine), end)
    if not hmac.compare_digest(bytes(stream.read(_MAC, end)), _mac(token, b"client", theirs, mine)):
        raise AuthError("The peer's token is wrong.")


def token_folder() -> Path:
    """Folder of token files: <LSPLIT_HOME>/hosts, else under the user's runtime folder or the kit's cache folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")  # without it the runtime folder may be a guessable name in /tmp
    if not os.environ.get("LSPLIT_HOME") and runtime and os.path.isdir(runtime):
        return Path(runtime) / "lsplit-kit" / "hosts"
    return home() / "hosts"


def sweep_tokens() -> list[Path]:
    """Remove the token files of this machine's hosts whose port nobody listens on any more; return them."""
    gone = []
    for path in token_folder().glob("*.token"):
        host, _, port = path.stem.rpartition("_")
        if not (host.startswith("127.") or host in ("--1", "0.0.0.0")) or not port.isdecimal():
            continue  # a copy that somebody put here for a host elsewhere
        try:
            socket.create_connection((host.replace("--1", "::1"), int(port)), timeout=0.5).close()
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            gone.append(path)
        except (OSError, OverflowError):
            continue
    return gone


def token_path(host: str, port: int) -> Path:
    """Return the token file of the host at this address."""
    host = "127.0.0.1" if host == "localhost" else host
    name = "".join(ch if ch.isalnum() or ch in ".-" else "-" for ch in host)
    return token_folder() / f"{name}_{int(port)}.token"


def write_token(host: str, port: int, token: bytes) -> Path:
    """Write a token file that only this user can read, in one step, and return its path."""
    path = token_path(host, port)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(token.hex() + "\n")
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return path


def find_token(host: str, port: int) -> bytes:
    """Return the token for this address from its token file, else from LSPLIT_TOKEN_FILE; raise AuthError."""
    path, elsewhere = token_path(host, port), os.environ.get("LSPLIT_TOKEN_FILE")
    own = os.path.exists(path)  # unlike Path.exists, False where the folder may not be read
    if not own and not elsewhere:
        raise AuthError(
            f"No token for {host}:{port} in {path.parent}: start the host as this user, or set LSPLIT_TOKEN_FILE to a "
            "copy of its token file."
        )
    source = path if own else Path(elsewhere or "")
    try:
        info = source.stat()
        if own and os.name == "posix" and (info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o077):
            raise AuthError(f"The token file {source} is open to others; remove it and start the host again.")
        token = bytes.fromhex(source.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as err:
        if isinstance(err, AuthError):
            raise
        raise AuthError(f"The token file {source} cannot be read.") from None
    if len(token) != 32:
        raise AuthError(f"The token file {source} does not hold 64 hexadecimal digits.")
    return token
