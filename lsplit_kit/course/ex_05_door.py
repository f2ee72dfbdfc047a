"""Checks for chapter 05, continued: who may come in."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, NamedTuple

from lsplit_kit.course.checks import Wrong, call, exercise


class _Watched(bytes):
    """Bytes that notice when they are compared the usual way."""

    compared = False

    def __eq__(self, other: object) -> bool:
        type(self).compared = True
        return bytes(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = bytes.__hash__


def proof(token: bytes, role: bytes, nc: bytes, nh: bytes) -> bytes:
    """What whoever holds the token, and nobody else, can say about two random numbers."""
    return hmac.new(token, role + nc + nh, hashlib.sha256).digest()


class _Meeting(NamedTuple):
    """One handshake: what let_in returned, what it sent, and the random bytes that it drew."""

    inside: bool
    sent: bytes
    drawn: list[bytes]


def _meet(answer: object, token: bytes, nc: bytes, peer: Any) -> _Meeting | Wrong:
    sent, drawn = list[bytes](), list[bytes]()

    def draw() -> bytes:
        drawn.append(secrets.token_bytes(16))
        return drawn[-1]

    def ask(message: object) -> bytes:
        if not isinstance(message, (bytes, bytearray)):
            raise TypeError(f"ask sends bytes, got {type(message).__name__}")
        sent.append(bytes(message))
        return _Watched(peer(sent[0], drawn[0] if drawn else b""))

    made = call(answer, token, nc, draw, ask)
    if not sent:
        return Wrong("nothing was sent with ask(...)", 1)
    if len(sent) > 1:
        return Wrong("ask was called more than once; one message goes down, one comes back", 1)
    if token in sent[0] or token.hex().encode() in sent[0]:
        return Wrong("the token itself crossed: whoever reads the line has it now", 1)
    if isinstance(made, (bytes, str, tuple)):
        return Wrong(f"True or False was expected, got {type(made).__name__}", 4)
    return _Meeting(bool(made), sent[0], drawn)


@exercise(
    "05.4",
    title="Who may come in",
    hints=[
        'proof = hmac.new(token, b"host" + nc + nh, hashlib.sha256).digest(); theirs = ask(nh + proof)',
        "nh = draw(), new in every handshake: an answer that was recorded once must be worth nothing the next time",
        'the peer\'s proof begins with another word, b"client": else it could send your own proof back to you',
        "compute the proof that the peer should have sent, and return hmac.compare_digest(theirs, that)",
    ],
    minutes=7,
    difficulty=3,
)
def let_in(answer: object) -> str | Wrong | None:
    """let_in(token, nc, draw, ask): the host's side of the handshake, True for a peer that holds the token."""
    token, nc = secrets.token_bytes(32), secrets.token_bytes(16)
    _Watched.compared = False
    met = _meet(answer, token, nc, lambda sent, nh: proof(token, b"client", nc, nh))
    if isinstance(met, Wrong):
        return met
    wrong = _said_wrong(met, token, nc)
    if wrong:
        return wrong
    if not met.inside:
        return Wrong("a peer that holds the token was sent away", 4)
    other = secrets.token_bytes(32)
    for what, peer, hint in (
        ("a peer with another token", lambda sent, nh: proof(other, b"client", nc, nh), 4),
        ("a peer that says nothing", lambda sent, nh: b"", 4),
        ("a peer that knows the first half of the proof", lambda sent, nh: proof(token, b"client", nc, nh)[:16], 4),
        ("a peer that sends your own proof back", lambda sent, nh: sent[16:], 3),
        ("a peer with an answer recorded in an earlier handshake",
         lambda sent, nh: proof(token, b"client", nc, met.drawn[0]), 2),
    ):  # fmt: skip
        again = _meet(answer, token, nc, peer)
        if isinstance(again, Wrong):
            return again
        if again.inside:
            return Wrong(f"{what} was let in", hint)
    if _Watched.compared:
        return Wrong("the proofs are compared with ==, which stops at the first byte that differs", 4)
    return None


def _said_wrong(met: _Meeting, token: bytes, nc: bytes) -> Wrong | None:
    """What is wrong with what the host sent."""
    if len(met.drawn) != 1:
        many = "no" if not met.drawn else str(len(met.drawn))
        return Wrong(f"{many} random bytes were drawn; one draw() for each handshake", 2)
    nh = met.drawn[0]
    if met.sent == nh + proof(token, b"host", nc, nh):
        return None
    if not met.sent.startswith(nh):
        return Wrong("what was sent does not begin with the random bytes that were drawn", 1)
    mine = met.sent[16:]
    for said, hint, it in (
        ("the proof is a hash without the token: anybody can make it", 1, hashlib.sha256(b"host" + nc + nh).digest()),
        ("the proof does not say who made it", 3, hmac.new(token, nc + nh, hashlib.sha256).digest()),
        ("the proof is about your own random bytes alone", 1, hmac.new(token, b"host" + nh, hashlib.sha256).digest()),
        ("the proof is about the peer's random bytes alone", 2, hmac.new(token, b"host" + nc, hashlib.sha256).digest()),
        ("the peer's random bytes come first in the proof", 1, proof(token, b"host", nh, nc)),
        ("that is the proof that the peer has to make", 3, proof(token, b"client", nc, nh)),
        ("the proof crosses as text, twice as long", 1, proof(token, b"host", nc, nh).hex().encode()),
    ):
        if mine == it:
            return Wrong(said, hint)
    return Wrong(f"48 bytes were expected, nh and a proof of 32; {len(met.sent)} came, or another proof", 1)
