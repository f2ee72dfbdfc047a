"""What AttackArena shows of recordings: the result of one attack, and a table of all that read the same vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..attacks.recorded import Recorded, recorded
from ..attacks.threats import LADDERS, direction_of
from ..data.captures import named
from ..errors import LsplitError
from ..figures.arena import Bout, ladder_html
from ..wire.view import OBSERVERS
from .arena_run import place_of
from .streaming import sentence


class Found:
    """Looks results up in the recordings that the kit ships; tables are made once."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def look(self, settings: Mapping[str, Any]) -> tuple[Bout, str]:
        """The result of the attack that the settings name, and the table as HTML."""
        attack, observer, knowledge = (settings[name] for name in ("attack", "observer", "knowledge"))
        wanted, seen = direction_of(attack, observer), OBSERVERS[observer]
        direction = wanted if wanted in seen else seen[0]  # the table has what can be read
        found, own = (
            recording_of(d, settings["depth"], settings["tail"], settings["codec"]) for d in (direction, wanted)
        )
        names = list(LADDERS[direction])
        refused = _refused(found, names, observer, knowledge)
        if attack not in names:
            refused |= _refused(own, [attack], observer, knowledge)
        key = (found.name, knowledge)
        if key not in self._tables:
            self._tables[key] = _table(found, knowledge, [name for name in names if name not in refused])
        rows = self._tables[key]
        place = place_of(own.depth, own.codec, wanted)
        table = ladder_html(rows, attack, refused, direction == "down")
        if attack in refused:
            return Bout(attack, observer, place, why=refused[attack]), table
        every = own.report(attack, observer, knowledge).tokens
        beside = own.texts[own.key(attack, knowledge)].tokens if wanted == "down" else None
        said, text = (
            None if one is None else one[one.conversation == settings["number"] - 1] for one in (every, beside)
        )
        figures = next(row for row in rows if row["attack"] == attack)
        texts = int(every.conversation.nunique())
        return Bout(attack, observer, place, said, own.decode, figures, texts, beside=text), table


def recording_of(direction: str, depth: int, tail: int, codec: str) -> Recorded:
    """The recording attacked in a direction; raises UnsupportedOption where there is none."""
    return recorded(named("smollm2", depth if direction == "up" else tail, codec, direction))


def _refused(found: Recorded, names: Sequence[str], observer: str, knowledge: str) -> dict[str, str]:
    """The attacks that may not run, and why."""
    refused: dict[str, str] = {}
    for name in names:
        try:
            found.report(name, observer, knowledge)
        except LsplitError as error:
            refused[name] = sentence(error)
    return refused


def _table(found: Recorded, knowledge: str, names: Sequence[str]) -> list[dict[str, Any]]:
    from ..measure.inversion import ladder

    reports = [found.report(name, knowledge=knowledge) for name in names]
    return ladder(reports, found.prior).to_dict("records") if reports else []
