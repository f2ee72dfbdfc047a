"""Certificates that were called back: a host reads their list again whenever its file changes."""

from __future__ import annotations

import logging
import os
import ssl
import threading
from pathlib import Path

from ..errors import AuthError
from ..wire.events import NOTICE, tell
from .tls import host_context, host_file

LIST = "revoked.pem"  # beside host.pem


class Gate:
    """A host's side of TLS, from the class's host part as it is now: `context`, and `revoked`, serial numbers.

    A list that cannot be read is refused at the start (AuthError); later the one before it stays in force.
    """

    def __init__(self, folder: str | os.PathLike[str], mode: str = "certificate") -> None:
        self._folder, self.mode = folder, mode
        self._path, self._lock = host_file(folder).with_name(LIST), threading.Lock()
        self._stamp = _stamp(self._path)
        self.revoked, self.context = self._read()

    def look(self) -> bool:
        """Read the list again where its file is another one than before; returns whether it was."""
        with self._lock:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            try:
                self.revoked, self.context = self._read(self.revoked)
            except AuthError as err:
                tell("list of revoked certificates cannot be used", logging.ERROR, why=str(err))
                return False
            tell("list of revoked certificates", NOTICE, revoked=len(self.revoked))
            return True

    def _read(self, before: frozenset[int] = frozenset()) -> tuple[frozenset[int], ssl.SSLContext]:
        context = host_context(self._folder, self.mode)
        if self._stamp is None:
            if before:
                raise AuthError(f"{self._path} is gone; those that it named stay out until the host ends.")
            return before, context
        from cryptography import x509  # a host without TLS, and a client, do without
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

        try:
            found = x509.load_pem_x509_crl(self._path.read_bytes())
            *_, authority = x509.load_pem_x509_certificates(host_file(self._folder).read_bytes())
            key = authority.public_key()
            if not (isinstance(key, EllipticCurvePublicKey) and found.is_signature_valid(key)):  # TLS refuses everybody
                raise AuthError(f"The list of revoked certificates {self._path} is of another class.")
            serials = frozenset(each.serial_number for each in found)
            context.load_verify_locations(self._path)
        except (OSError, ValueError) as err:
            if isinstance(err, AuthError):
                raise
            why = err.strerror if type(err) is not ssl.SSLError and isinstance(err, OSError) else "it is damaged"
            raise AuthError(f"The list of revoked certificates {self._path} cannot be read: {why}.") from None
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return serials, context


def serial_of(tls: ssl.SSLSocket) -> int:
    """The serial number of the peer's certificate, which was verified."""
    return int(str((tls.getpeercert() or {})["serialNumber"]), 16)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_size, info.st_ino
