"""A host's own certificate, its class, and who was called back: read again whenever one of the files changes."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from pathlib import Path
from typing import NamedTuple

from ..errors import AuthError
from ..wire.events import NOTICE, tell
from .tls import host_context, host_file

LIST = "revoked.pem"  # beside host.pem


class Terms(NamedTuple):
    """Whom a host lets in: who has a certificate of one of the `classes` (DER) and is not among `revoked` (serials)."""

    context: ssl.SSLContext
    classes: frozenset[bytes]
    revoked: frozenset[int]


class Gate:
    """A host's side of TLS: `now`, from the class's host part as its files are now.

    Files that cannot be read are refused at the start (AuthError); later what was in force before stays in force. A
    host.pem of another class counts at once, whatever is wrong with the list beside it: the class before may be known
    to others.
    """

    def __init__(self, folder: str | os.PathLike[str], mode: str = "certificate") -> None:
        self._own, self.mode, self._lock = host_file(folder), mode, threading.Lock()
        self._list = self._own.with_name(LIST)
        self._stamps = _stamp(self._own), _stamp(self._list)
        self.now = self._listed(self._read())

    def look(self) -> bool:
        """Read the files again where one is another than before; returns whether something else is in force now."""
        with self._lock:
            stamps = _stamp(self._own), _stamp(self._list)
            if stamps == self._stamps:
                return False
            self._stamps, before, found = stamps, self.now, None
            try:
                found = self._read()
                anew = found.classes != before.classes
                self.now = self._listed(found if anew else found._replace(revoked=before.revoked))
            except AuthError as err:
                what = "certificate of this host" if found is None else "list of revoked certificates"
                tell(f"{what} cannot be used", logging.ERROR, why=str(err))
                if found is None or found.classes == before.classes:
                    return False
                self.now = found
            if self.now.classes != before.classes:
                tell("class made anew: files of the one before are refused", NOTICE)
            if self.now.revoked or before.revoked:
                tell("list of revoked certificates", NOTICE, revoked=len(self.now.revoked))
            return True

    def _read(self) -> Terms:
        context = host_context(self._own.parent, self.mode)
        return Terms(context, frozenset(context.get_ca_certs(binary_form=True)), frozenset())

    def _listed(self, found: Terms) -> Terms:
        """The terms with the list as it is now; `revoked` of those given are the serials that it named before."""
        if self._stamps[1] is None:
            if found.revoked:
                raise AuthError(f"{self._list} is gone; those that it named stay out until the host ends.")
            return found
        from cryptography import x509  # a host without TLS, and a client, do without
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

        try:
            listed = x509.load_pem_x509_crl(self._list.read_bytes())
            keys = [x509.load_der_x509_certificate(each).public_key() for each in found.classes]
            known = (key for key in keys if isinstance(key, EllipticCurvePublicKey))
            if not any(listed.is_signature_valid(key) for key in known):  # TLS refuses everybody
                raise AuthError(f"The list of revoked certificates {self._list} is of another class.")
            serials = frozenset(each.serial_number for each in listed)
            found.context.load_verify_locations(self._list)
        except (OSError, ValueError) as err:
            if isinstance(err, AuthError):
                raise
            why = err.strerror if type(err) is not ssl.SSLError and isinstance(err, OSError) else "it is damaged"
            raise AuthError(f"The list of revoked certificates {self._list} cannot be read: {why}.") from None
        found.context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return found._replace(revoked=serials)


def serial_of(tls: ssl.SSLSocket) -> int:
    """The serial number of the peer's certificate, which was verified."""
    return int(str((tls.getpeercert() or {})["serialNumber"]), 16)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino
