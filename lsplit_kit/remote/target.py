"""Which host somebody means: one that was started here, an address, a link, or the model that was split over it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from ..errors import UnsupportedOption
from ..wire.emulated import EmulatedLink
from ..wire.here import InProcess
from ..wire.watch import Watched
from .address import check_certificate
from .client import RpycLink
from .host import Host

WHOSE = {
    "child": "a host that this process started",
    "here": "a body in this process",
    "link": "a host at the other end of a link",
    "foreign": "a host somewhere else",
}


class Target(NamedTuple):
    """A host that can be asked about itself, its name, and whose it is (of WHOSE); `close` ends what was opened."""

    asked: Watched
    name: str
    whose: str
    close: Callable[[], None]


def target_of(host: object, timeout: float = 10.0, certificate: str | os.PathLike[str] | None = None) -> Target:
    """A Host, "rpyc://address:port" (or rpycs://), a link or a split model; an address gets a link of its own.

    certificate: for an address rpycs://, as in `split`. Raises UnsupportedOption for anything else, and what RpycLink
    raises.
    """
    check_certificate(certificate, [host])
    if isinstance(host, str) and host.startswith(("rpyc://", "rpycs://")):
        link = RpycLink(host, timeout, certificate=certificate)
        return Target(link, host, "foreign", link.close)
    link_of = getattr(getattr(host, "remote", None), "link", host)
    if isinstance(link_of, Watched):
        inner = link_of.inner if isinstance(link_of, EmulatedLink) else link_of
        here = isinstance(inner, InProcess)
        whose = "child" if isinstance(link_of, Host) else "here" if here else "link"
        name = getattr(link_of, "address", None) or str(getattr(link_of, "name", "a link"))
        return Target(link_of, name, whose, lambda: None)
    said = repr(host[:80]) if isinstance(host, str) else type(host).__name__
    raise UnsupportedOption(f"{said} is no host; give what lk.host returned, an address rpyc://..., or a link.")
