"""What both sides remember, moment by moment: counted for a made-up reply, or read off a ledger.

The local slot keeps every hidden vector that was sent. The host keeps nothing (`none`), the same vectors (`hidden`), or
keys and values (`kv`); it learns of rejected positions by the `start` of the next step, which lies below what it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..errors import UnsupportedOption
from ..wire.tap import Crossing
from .traffic import _check

DRAFT, KEPT = 4, 2  # guessed tokens of the made-up reply's one draft, and how many of them turn out right


class Moment(NamedTuple):
    """One moment of a session, in positions.

    what: prefill, decode, draft (the last token and guesses behind it), rollback (guesses were wrong), lost (the host
    forgot the session) or replay; start: the first position that crosses; vectors: how many cross in each direction;
    ran: how many the body passes over; local, host: how many each side remembers afterwards; rejected: how many the
    local side has just given up.
    """

    what: str
    start: int
    vectors: int
    ran: int
    local: int
    host: int
    rejected: int = 0


def story(policy: str, prompt: int, new: int, draft: int = DRAFT, kept: int = KEPT) -> list[Moment]:
    """A made-up reply of `new` tokens, as the kit would send it; raises UnsupportedOption.

    After a third of it `draft` guessed tokens are checked in one step and `kept` of them are right; after two thirds
    the host forgets the session. Short replies have no room for the draft, or for neither.
    """
    _check(policy, prompt, new)
    if not 0 <= kept <= draft:
        raise UnsupportedOption(f"kept takes 0 to the {draft} guessed tokens, got {kept!r}.")
    made, drafted, lost = 1, False, False
    found = [_step(policy, "prefill", 0, 0, prompt)]
    while made < new:
        last = found[-1]
        if not drafted and 3 * made >= new and new - made > kept:
            drafted = True
            found.append(_step(policy, "draft", last.local, last.host, last.local + 1 + draft))
            if draft > kept:
                end = found[-1].local - (draft - kept)
                found.append(Moment("rollback", 0, 0, 0, end, found[-1].host, draft - kept))
            made += kept + 1
            continue
        if not lost and 3 * made >= 2 * new:
            lost = True
            last = Moment("lost", 0, 0, 0, last.local, 0)
            found.append(last)
        what = "replay" if last.what == "lost" and policy != "none" else "decode"
        found.append(_step(policy, what, last.local, last.host, last.local + 1))
        made += 1
    return found


def _step(policy: str, what: str, local: int, host: int, end: int) -> Moment:
    """A step after which the local slot holds `end` positions; the host had `host`, of which `local` are still good."""
    start = 0 if policy == "none" else min(local, host)
    return Moment(what, start, end - start, end - start if policy == "kv" else end, end, 0 if policy == "none" else end)


def moments(policy: str, crossings: Iterable[Crossing]) -> list[Moment]:
    """The moments of one session, read off the crossings of a tap; raises UnsupportedOption.

    Policy `none` is not read: its steps all start at 0, so a rollback leaves no trace in them.
    """
    if policy not in ("kv", "hidden"):
        raise UnsupportedOption(f"moments reads the ledgers of policies kv and hidden, got {policy!r}.")
    found: list[Moment] = []
    for crossing in crossings:
        if crossing.direction != "up" or not crossing.shape:
            continue
        count, have = crossing.shape[1], found[-1].host if found else 0
        if crossing.kind == "replay" and crossing.start == 0:
            found.append(Moment("lost", 0, 0, 0, found[-1].local if found else 0, 0))
        elif crossing.start < have:
            found.append(Moment("rollback", 0, 0, 0, crossing.start, have, have - crossing.start))
        what = "prefill" if not found else "decode" if count == 1 else "draft"
        what = "replay" if crossing.kind == "replay" else what
        end = crossing.start + count
        found.append(Moment(what, crossing.start, count, count if policy == "kv" else end, end, end))
    return found
