"""TLS 1.3 around a link: contexts of the kit's own, which trust one class's authority and nothing of the system's."""

from __future__ import annotations

import os
import re
import socket
import ssl
from pathlib import Path
from typing import Any

from ..errors import AuthError, HostTimeout, HostUnavailable, LsplitError

CERTIFICATE = "LSPLIT_CERTIFICATE"  # the variable that names a bundle
LOOPBACK = ("localhost", "127.0.0.1", "::1")  # names that every host's certificate has
# How a host lets people in, agreed in the TLS handshake (ALPN), so that neither side has to guess.
MODES = {"certificate": "lsplit-certificate/1", "token": "lsplit-token/1", "none": "lsplit-anyone/1"}
_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_EXPIRED, _NOT_YET_VALID, _OTHER_NAME, _OTHER_ADDRESS, _OTHER_PURPOSE = 10, 9, 62, 64, 26  # OpenSSL's X509_V_ERR_...
_STRANGERS = {18, 19, 20, 21}  # self-signed, or the issuer is not the authority that we know
_PLAIN = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "BAD_RECORD_TYPE", "UNEXPECTED_MESSAGE"}
_TOLD = {  # what the host's last words mean, which come with the first read
    "CERTIFICATE_REQUIRED": "asks for a certificate; {give}",
    "UNKNOWN_CA": "does not know the authority of your certificate {path}; take the bundle of this host's class",
    "CERTIFICATE_EXPIRED": "refused your certificate {path}: it has expired; ask for one of a new class",
    "CERTIFICATE_REVOKED": "refused your certificate {path}: it was revoked; ask whoever runs the host for another one",
    "CERTIFICATE_UNKNOWN": "refused your certificate {path}",
    "UNSUPPORTED_CERTIFICATE": "refused your certificate {path}: it is not a student's",
    "BAD_CERTIFICATE": "refused your certificate {path}",
    "DECRYPT_ERROR": "does not know the authority of your certificate {path}; take the bundle of this host's class",
    "ACCESS_DENIED": "refused your certificate {path}",
    "PROTOCOL_VERSION": "does not speak TLS 1.3",
}
_GIVE = f'give certificate="student-07.pem" (in a shell --certificate student-07.pem), or set {CERTIFICATE} to its path'


class TlsSocket(ssl.SSLSocket):
    """A TLS socket whose shutdown leaves TLS on: a thread that still writes must never write in clear."""

    def shutdown(self, how: int) -> None:
        """Shut the TCP connection down, in one or both directions."""
        socket.socket.shutdown(self, how)


class Ticket:
    """What a local side shows and whom it trusts: a bundle with a key, or the authority's certificate alone."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        path = path or os.environ.get(CERTIFICATE)
        if not path:
            raise AuthError(f"An address rpycs:// needs the bundle that you were given: {_GIVE}.")
        self.path = Path(path).expanduser()
        self.context = _context(ssl.PROTOCOL_TLS_CLIENT)  # the host's name is checked: that protocol's default
        self.has_key = _trust(self.context, self.path)
        self.context.set_alpn_protocols(list(MODES.values()))

    def enter(self, sock: socket.socket, host: str, address: str) -> tuple[ssl.SSLSocket, str]:
        """The TLS socket, and how the host lets people in; raises AuthError, HostTimeout, HostUnavailable."""
        try:
            tls = self.context.wrap_socket(sock, server_hostname=host)
        except TimeoutError:
            raise HostTimeout(f"{address} did not answer the TLS handshake in time.") from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
            raise HostUnavailable(
                f"{address} ended the TLS handshake; it may be full, or a host without TLS (then write rpyc://)."
            ) from None
        except ssl.SSLError as err:
            raise self.explain(err, host, address) from None
        except (OSError, ValueError) as err:  # ValueError: a name that no certificate can have
            raise HostUnavailable(f"The TLS handshake with {address} failed ({err}).") from None
        mode = next((name for name, said in MODES.items() if said == tls.selected_alpn_protocol()), "")
        if mode and (mode != "certificate" or self.has_key):
            return tls, mode
        tls.close()
        if mode:
            raise AuthError(f"{self.path} holds no key, and {address} asks for a certificate; {_GIVE}.")
        raise AuthError(f"What answers at {address} speaks TLS, but is no lsplit host.")

    def explain(self, error: ssl.SSLError, host: str, address: str) -> LsplitError:
        """The sentence for what went wrong between us and the host."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return AuthError(f"The host at {address} {self._verdict(error, host)}.")
        reason = error.reason or str(error)
        if reason in _PLAIN:
            return AuthError(f"What answers at {address} does not speak TLS; for a host without it write rpyc://.")
        for word, said in _TOLD.items():
            if reason.endswith(f"ALERT_{word}"):
                return AuthError(f"The host at {address} {said.format(path=self.path, give=_GIVE)}.")
        return HostUnavailable(f"TLS with {address} failed ({reason}).")

    def _verdict(self, error: ssl.SSLCertVerificationError, host: str) -> str:
        code = error.verify_code
        if code in (_OTHER_NAME, _OTHER_ADDRESS):
            return (
                f"has a certificate for other names than {host}; write a name that is in it, or make the class "
                f"again with --host {host}"
            )
        if code == _EXPIRED:
            return "has a certificate that has expired; make a new class"
        if code == _NOT_YET_VALID:
            return "has a certificate that is not valid yet; compare the clocks of the two machines"
        if code == _OTHER_PURPOSE:
            return "shows a certificate that is not a host's: somebody else may be answering there"
        if code in _STRANGERS:
            return f"is not of the class of {self.path}: another authority made its certificate"
        return f"has a certificate that does not hold ({error.verify_message})"


def host_context(folder: str | os.PathLike[str], mode: str) -> ssl.SSLContext:
    """The host's side, from the class's host part; in mode "certificate" it asks every peer for one."""
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    if not _trust(context, host_file(folder)):
        raise AuthError(f"{host_file(folder)} holds no key; take the host's file of the class.")
    context.verify_mode = ssl.CERT_REQUIRED if mode == "certificate" else ssl.CERT_NONE
    context.num_tickets = 0  # nobody resumes: every connection shows its certificate
    context.set_alpn_protocols([MODES[mode]])
    return context


def host_file(folder: str | os.PathLike[str]) -> Path:
    """The host's PEM file in a class's folder or its host part; raises AuthError."""
    folder = Path(folder).expanduser()
    for path in (folder / "host.pem", folder / "host" / "host.pem"):
        if path.is_file():
            return path
    raise AuthError(f"There is no host.pem in {folder}; make a class with lsplit certs class, and name its host part.")


def common_name(tls: ssl.SSLSocket) -> str:
    """The name in the peer's certificate, which was verified; raises AuthError when it has not exactly one."""
    subject: Any = (tls.getpeercert() or {}).get("subject", ())
    names = [value for part in subject for key, value in part if key == "commonName"]
    if len(names) != 1 or not names[0]:
        raise AuthError("The peer's certificate has not exactly one common name.")
    return names[0]


def _context(side: int) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.sslsocket_class = TlsSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _trust(context: ssl.SSLContext, path: Path) -> bool:
    """Load a PEM file: the first certificate is ours if there is a key, all others are trusted; say if there is one."""
    try:
        text = path.read_text("ascii")
        found, has_key = _BLOCK.findall(text), "PRIVATE KEY-----" in text
        if not found[has_key:]:
            raise AuthError(f"{path} is no bundle of a class: it lacks the authority's certificate.")
        context.load_verify_locations(cadata="\n".join(found[has_key:]))
        if has_key:
            context.load_cert_chain(path, password=lambda: "")  # a notebook has no terminal to ask for one
    except (OSError, ValueError) as err:
        if isinstance(err, AuthError):
            raise
        why = err.strerror if type(err) is not ssl.SSLError and isinstance(err, OSError) else "it is damaged"
        raise AuthError(f"The certificate file {path} cannot be read: {why}.") from None
    return has_key
