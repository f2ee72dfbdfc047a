"""How a host is named: rpyc://host:port, and rpycs://host:port over TLS."""

from __future__ import annotations

import os
from collections.abc import Iterable
from urllib.parse import urlsplit

from ..errors import UnsupportedOption
from .protocol import safe_text


def address_of(host: str, port: int, tls: bool = False) -> str:
    """The address of a host, "rpyc://host:port", or "rpycs://host:port" over TLS."""
    return f"rpyc{'s' * tls}://{f'[{host}]' if ':' in host else host}:{port}"


def is_over_tls(address: str) -> bool:
    """Whether an address asks for TLS."""
    return address.strip().lower().startswith("rpycs:")


def check_certificate(certificate: str | os.PathLike[str] | None, addresses: Iterable[object]) -> None:
    """Raise UnsupportedOption for a certificate that none of `addresses` has a use for."""
    if certificate is not None and not any(isinstance(each, str) and is_over_tls(each) for each in addresses):
        raise UnsupportedOption("certificate= is for hosts with TLS, which are given by an address rpycs://host:port.")


def parse_address(address: str) -> tuple[str, int]:
    """Return (host, port) of "rpyc(s)://host:port"; raise UnsupportedOption, a ValueError, for anything else."""
    try:
        parts = urlsplit(address)
        if (
            parts.scheme in ("rpyc", "rpycs")
            and parts.hostname
            and parts.port
            and not (parts.path.strip("/") or parts.query or "@" in parts.netloc)
        ):
            return parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError):
        pass
    raise UnsupportedOption(f"{safe_text(address)!r} is no host address; write it as rpyc://127.0.0.1:18861.")
