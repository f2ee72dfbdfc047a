"""The class that a host lets in, as its files say now: who issues, and which certificates were called back."""

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
    """What a host's files say: its side of TLS, the authority's certificate (DER), and serial numbers called back."""

    context: ssl.SSLContext
    authority: bytes
    revoked: frozenset[int]

    def objection(self, serial: int, authority: bytes) -> str:
        """Why a certificate of this authority, that was good once, is so no longer; "" where it is."""
        if authority != self.authority:
            return "certificate of a class that is no more"
        return "certificate revoked" if serial in self.revoked else ""


class Gate:
    """A host's side of TLS, from the class's host part: `terms`, read again when host.pem or revoked.pem changes.

    Files that cannot be used are refused at the start (AuthError); later the terms before them stay in force.
    """

    def __init__(self, folder: str | os.PathLike[str], mode: str = "certificate") -> None:
        self.mode, self._lock = mode, threading.Lock()
        self._file = host_file(folder)
        self._list = self._file.with_name(LIST)
        self._stamp = self._stamps()
        self.terms = self._read()

    def look(self) -> Terms:
        """The terms, from the files where they are others than before."""
        with self._lock:
            if (stamp := self._stamps()) == self._stamp:
                return self.terms
            self._stamp = stamp
            try:
                before, self.terms = self.terms, self._read(self.terms)
            except AuthError as err:
                tell("the class's files cannot be used", logging.ERROR, why=str(err))
                return self.terms
            tell("class read again", NOTICE, another=self.terms.authority != before.authority,
                 revoked=len(self.terms.revoked))  # fmt: skip
            return self.terms

    def _read(self, before: Terms | None = None) -> Terms:
        context = host_context(self._file.parent, self.mode)
        from cryptography import x509  # a host without TLS, and a client, do without
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.serialization import Encoding

        try:
            *_, authority = x509.load_pem_x509_certificates(self._file.read_bytes())
            issuer = authority.public_bytes(Encoding.DER)
            if self._stamp[1] is None:
                if before is not None and before.revoked and before.authority == issuer:
                    raise AuthError(f"{self._list} is gone; those that it named stay out until the host ends.")
                return Terms(context, issuer, frozenset())
            found, key = x509.load_pem_x509_crl(self._list.read_bytes()), authority.public_key()
            if not (isinstance(key, EllipticCurvePublicKey) and found.is_signature_valid(key)):  # TLS refuses everybody
                raise AuthError(f"The list of revoked certificates {self._list} is of another class.")
            context.load_verify_locations(self._list)
        except (OSError, ValueError) as err:
            if isinstance(err, AuthError):
                raise
            why = err.strerror if type(err) is not ssl.SSLError and isinstance(err, OSError) else "it is damaged"
            raise AuthError(f"The list of revoked certificates {self._list} cannot be read: {why}.") from None
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return Terms(context, issuer, frozenset(each.serial_number for each in found))

    def _stamps(self) -> tuple[tuple[int, ...] | None, ...]:
        return _stamp(self._file), _stamp(self._list)


def serial_of(tls: ssl.SSLSocket) -> int:
    """The serial number of the peer's certificate, which was verified."""
    return int(str((tls.getpeercert() or {})["serialNumber"]), 16)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino
