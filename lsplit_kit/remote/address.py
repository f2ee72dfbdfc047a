"""How a host is named: rpyc://host:port."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..errors import UnsupportedOption
from .protocol import safe_text


def parse_address(address: str) -> tuple[str, int]:
    """Return (host, port) of "rpyc://host:port"; raise UnsupportedOption, a ValueError, for anything else."""
    try:
        parts = urlsplit(address)
        if (
            parts.scheme == "rpyc"
            and parts.hostname
            and parts.port
            and not (parts.path.strip("/") or parts.query or "@" in parts.netloc)
        ):
            return parts.hostname, parts.port
    except (ValueError, AttributeError, TypeError):
        pass
    raise UnsupportedOption(f"{safe_text(address)!r} is no host address; write it as rpyc://127.0.0.1:18861.")
