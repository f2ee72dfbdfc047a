"""Certificates: a class's authority, what it issues and calls back, and what such a file says."""

from __future__ import annotations

import ipaddress
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..card import Card
from ..errors import AuthError
from .protocol import safe_text


class Bundle(Card):
    """Who a PEM file is for: `.name`, the `.hosts` that its certificate names, `.until` when, `.serial`; AuthError."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            found = x509.load_pem_x509_certificate(Path(path).read_bytes())
            (name,) = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        except (OSError, ValueError) as err:
            why = err.strerror if isinstance(err, OSError) else "it holds no certificate with one common name"
            raise AuthError(f"{path} is no bundle of a class: {why}.") from None
        self.path, self.name, self.until = Path(path), safe_text(name.value), found.not_valid_after_utc
        self.serial = found.serial_number
        try:
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            self.hosts = tuple(str(each.value) for each in names)
        except x509.ExtensionNotFound:
            self.hosts = ()

    def _card(self) -> tuple[str, dict[str, object]]:
        facts: dict[str, object] = {"name": self.name, "valid until": f"{self.until:%Y-%m-%d}"}
        return f"Bundle: {self.path.name}", facts | ({"for the hosts": ", ".join(self.hosts)} if self.hosts else {})


class Authority:
    """A certificate authority of one class; its key is in this object, and where somebody writes `key_pem`."""

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Authority:
        """The authority whose `key_pem` was written to a file; raises AuthError."""
        try:
            text, found = Path(path).read_bytes(), cls.__new__(cls)
            key, found._certificate = load_pem_private_key(text, None), x509.load_pem_x509_certificate(text)
            if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != found._certificate.public_key():
                raise ValueError("another key")
        except (OSError, ValueError, TypeError) as err:
            why = err.strerror if isinstance(err, OSError) else "it does not hold an authority's key and certificate"
            raise AuthError(f"The authority's key {path} cannot be read: {why}.") from None
        found._key, found._name = key, found._certificate.subject
        found.begins, found.ends = found._certificate.not_valid_before_utc, found._certificate.not_valid_after_utc
        return found

    def __init__(self, begins: datetime, ends: datetime) -> None:
        self.begins, self.ends, self._key = begins, ends, ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(f"lsplit class {secrets.token_hex(6)}")  # two classes never share a name
        usage = _usage(key_cert_sign=True, crl_sign=True)
        draft = self._draft(self._name, self._key.public_key(), ends, x509.BasicConstraints(True, 0), usage)
        self._certificate = draft.sign(self._key, SHA256())

    @property
    def pem(self) -> bytes:
        """The authority's certificate."""
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The authority's key and certificate: who has this can issue certificates of the class."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + self.pem

    def revoke(self, serials: Iterable[int]) -> bytes:
        """PEM of the list (RFC 5280) of all certificates that hosts refuse from now on, whatever was listed before."""
        now = datetime.now(UTC).replace(microsecond=0)
        draft = x509.CertificateRevocationListBuilder().issuer_name(self._name).next_update(self.ends)
        draft = draft.last_update(max(self.begins, now - timedelta(days=1)))  # clocks differ
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        draft = draft.add_extension(issuer, critical=False)
        draft = draft.add_extension(x509.CRLNumber(time.time_ns()), critical=False)  # a later list has a larger one
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            draft = draft.add_revoked_certificate(entry.build())
        return draft.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def issue(self, name: str, hosts: Sequence[str] = (), ends: datetime | None = None) -> bytes:
        """PEM of a new certificate for `name`, its key, and the authority's; with `hosts` it is a host's."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = _usage(digital_signature=True)
        draft = self._draft(
            _common_name(name), key.public_key(), ends or self.ends, x509.BasicConstraints(False, None), usage
        )
        role = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        draft = draft.add_extension(x509.ExtendedKeyUsage([role]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        draft = draft.add_extension(issuer, critical=False)
        if hosts:
            draft = draft.add_extension(x509.SubjectAlternativeName(map(_alternative, hosts)), critical=False)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return draft.sign(self._key, SHA256()).public_bytes(Encoding.PEM) + private + self.pem

    def _draft(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        ends: datetime,
        basic: x509.BasicConstraints,
        usage: x509.KeyUsage,
    ) -> x509.CertificateBuilder:
        draft = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        draft = draft.serial_number(x509.random_serial_number())
        draft = draft.not_valid_before(min(self.begins, ends - timedelta(days=1))).not_valid_after(ends)
        draft = draft.add_extension(basic, critical=True).add_extension(usage, critical=True)
        return draft.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.lower())


def _usage(**granted: bool) -> x509.KeyUsage:
    kinds = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{kind: granted.get(kind, False) for kind in kinds})
