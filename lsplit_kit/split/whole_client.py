"""The local side of a cloud-only deployment: a prompt up, tokens or a picture down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import Busy, FrameError, LsplitError, UnsupportedModel
from ..wire.link import Link
from ..wire.message import Exchange, Open, WholeStep, ints_from_wire, ints_to_wire
from ..wire.patience import Patience
from .whole_options import DEFAULT_NEW, PICTURE, TEXT, checked, to_json
from .whole_picture import from_png

if TYPE_CHECKING:
    from PIL.Image import Image

WINDOW = (
    128  # steps under way: more tokens than a host makes in a round trip, and few to drop when the reply ends early
)


def begin(link: Link, policy: str) -> int:
    """Open a session at a whole model's host; UnsupportedModel when this host is none."""
    try:
        return link.open(Open(policy, "fp32", "fp32"))
    except FrameError:
        raise UnsupportedModel(
            f"This host serves {link.info.model} without {policy}s; start one with `lsplit host --whole`, or "
            "lk.host(..., whole=True)."
        ) from None


def reply(
    link: Link, ids: list[int], options: Mapping[str, Any], window: int = WINDOW
) -> Iterator[tuple[int, Exchange]]:
    """(token, its exchange), one after the other; up to `window` steps are under way, so one round trip is paid.

    A host that is busy is waited for before the first token; afterwards nobody could replay what it has. Raises
    FrameError for an answer that is no token, and what the host answers.
    """
    options, patience, until, came = checked(options, TEXT), Patience(), None, 0
    while True:
        try:
            for token in _tokens(link, ids, options, window):
                came += 1
                yield token
            return
        except Busy as busy:
            if came:
                raise
            until = patience.wait(busy, until, link)


def _tokens(link: Link, ids: list[int], options: Mapping[str, Any], window: int) -> Iterator[tuple[int, Exchange]]:
    most, sent = options.get("max_new_tokens", DEFAULT_NEW), 0
    session = begin(link, "token")
    try:
        for got in range(most):
            while sent < min(most, got + window):
                sent += 1
                link.send(session, WholeStep(1, to_json(options), ints_to_wire(ids)) if sent == 1 else WholeStep(sent))
            done = link.receive(session)
            if not done.payload:
                return
            token = ints_from_wire(done.payload, "a token")
            if len(token) != 1 or token[0] < 0:
                raise FrameError("The host's answer is not one token id.")
            yield token[0], done
    finally:
        with contextlib.suppress(LsplitError):  # a host that is gone has forgotten already
            link.drop(session)
            link.close_session(session)


def picture(link: Link, prompt: str, options: Mapping[str, Any]) -> tuple[Image, Exchange]:
    """A picture and its exchange; raises FrameError, LimitExceeded, and what the host answers."""
    patience, until = Patience(), None
    while True:
        try:
            return _picture(link, prompt, options)
        except Busy as busy:
            until = patience.wait(busy, until, link)


def _picture(link: Link, prompt: str, options: Mapping[str, Any]) -> tuple[Image, Exchange]:
    session = begin(link, "picture")
    try:
        done = link.step(session, WholeStep(1, to_json(checked(options, PICTURE)), prompt.encode()))
        return from_png(done.payload), done
    finally:
        with contextlib.suppress(LsplitError):
            link.close_session(session)
