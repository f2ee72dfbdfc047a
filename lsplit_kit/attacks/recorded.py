"""Reports that were made before: what the ladder of attacks read in the recordings that the kit ships."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..card import Card
from ..data.captures import capture as paths_of
from ..errors import CaptureError, UnsupportedOption
from ..wire.capture import Capture
from .attack import Cost
from .report import Report
from .threats import THREATS, allowed, knowledge_of

if TYPE_CHECKING:
    import pandas as pd

ROWS = ("conversation", "position", "kind", "truth")
OBSERVER = {"up": "eavesdrop_up", "down": "eavesdrop_down"}  # by direction, the one they are recorded by


@dataclass(frozen=True, repr=False)
class Recorded(Card):
    """A recording: the capture (None where only reports are shipped), reports by (attack, knowledge), and token texts.

    pieces: text of every token id that is named, or bytes where it is a part of a character. Where what comes down is
    attacked, reports compare with what the unsplit model would say next, and texts, by the same keys, with the text
    itself, without beliefs; depth is that of the tail.
    """

    name: str
    model: str
    depth: int
    codec: str
    capture: Capture | None
    reports: dict[tuple[str, str], Report]
    pieces: dict[int, str | bytes]
    direction: str = "up"
    texts: dict[tuple[str, str], Report] = field(default_factory=dict)

    def decode(self, token: int) -> str | bytes:
        """What a token id stands for."""
        return self.pieces[token]

    def report(self, attack: str, observer: str = "", knowledge: str = "public") -> Report:
        """What an attack read; raises NeedsKnowledge or UnsupportedOption as the attack itself does.

        Every observer who sees the recording's direction reads the same; by default one who sees nothing else. Raises
        UnsupportedOption for what was not recorded, too.
        """
        observer = observer or OBSERVER[self.direction]
        allowed(attack, observer, _stand_in(knowledge), self.direction)
        key = self.key(attack, knowledge)
        if key not in self.reports:
            raise UnsupportedOption(
                f"What {attack} reads with {THREATS[knowledge]} is not recorded with {self.codec}; take int8:token, "
                "or lk.AttackArena(live=True)."
            )
        return replace(self.reports[key], observer=observer)

    def key(self, attack: str, knowledge: str) -> tuple[str, str]:
        """Where reports of an attack are; one that looks at no vector guesses the same whatever else is known."""
        return attack, "public" if attack == "PriorOnly" else knowledge

    @property
    def prior(self) -> Report:
        """The report of the attack that looks at no vector: H0 of `measure.inversion.leak_of`."""
        return self.reports["PriorOnly", "public"]

    def _card(self) -> tuple[str, dict[str, object]]:
        layers = f"{self.depth} layer{'' if self.depth == 1 else 's'}"
        place = f"behind {layers}" if self.direction == "up" else f"{layers} before the end"
        return f"Recording {self.name}", {
            "cut": f"{place} of {self.model}",
            "codec": self.codec,
            "capture": "shipped" if self.capture else "not shipped, only its reports",
            "prompts": int(self.prior.tokens.conversation.nunique()),
            "tokens that count": len(self.prior.counted),
            "attacks": ", ".join(dict.fromkeys(attack for attack, _ in self.reports)),
        }


def _stand_in(knowledge: str) -> Any:
    """The knowledge by name, without a model: enough to tell what an attack would refuse."""
    nobody = SimpleNamespace(config=None, decode=None)
    return knowledge_of(knowledge, nobody, nobody, ["text"])


@lru_cache(maxsize=16)
def recorded(name: str) -> Recorded:
    """The recording of a name in `data.captures()`; raises UnsupportedOption, CaptureError where a file is damaged."""
    import pandas as pd

    at = paths_of(name)
    try:
        kept = json.loads(at.reports.read_text("utf-8"))
        rows = pd.DataFrame({column: kept[column] for column in ROWS})
        reports, texts = {}, {}
        for said in kept["said"]:
            key = (said["attack"], said["knowledge"])
            reports[key] = _report(said, at.direction, rows, said["rank"], said["log_prob"])
            if at.direction == "down":
                texts[key] = _report(said, at.direction, rows.assign(truth=kept["text"]), said["text"], None)
        pieces: dict[int, str | bytes] = {int(token): text for token, text in kept["pieces"].items()}
        pieces |= {int(token): bytes.fromhex(text) for token, text in kept["bytes"].items()}
    except (OSError, KeyError, TypeError, ValueError) as err:
        raise CaptureError(f"{at.reports} holds no readable reports ({type(err).__name__}).") from None
    found = None if at.path is None else Capture.load(at.path)
    return Recorded(name, at.model, at.depth, at.codec, found, reports, pieces, at.direction, texts)


def _report(said: Any, direction: str, rows: pd.DataFrame, rank: Any, beliefs: Any) -> Report:
    """A report that was kept: its guesses beside the rows' truth."""
    import pandas as pd

    guess = pd.Series(said["guess"])
    log_prob = float("nan") if beliefs is None else pd.Series(beliefs, dtype=float)
    tokens = rows.assign(guess=guess, right=guess == rows.truth, rank=rank, log_prob=log_prob, mass=float("nan"))
    return Report(said["attack"], OBSERVER[direction], tokens, Cost(**said["cost"]))


def dumped(reports: Iterable[tuple[str, Report]], piece: Any, texts: Sequence[Report] = ()) -> str:
    """Reports with their knowledge (a name in THREATS), as the JSON that `recorded` reads; piece(token): its text.

    texts: of attacks on what comes down, one of each comparing with the text itself. Beliefs are rounded to a
    ten-thousandth of a nat; masses are left out.
    """
    said, rows, tokens = [], None, set()
    for number, (knowledge, one) in enumerate(reports):
        assert knowledge in THREATS
        rows = one.tokens[list(ROWS)] if rows is None else rows
        beliefs = one.tokens.log_prob
        said.append({
            "attack": one.attack, "knowledge": knowledge, "guess": one.tokens.guess.tolist(),
            "rank": one.tokens["rank"].tolist(),
            **({"text": texts[number].tokens["rank"].tolist()} if texts else {}),
            "log_prob": None if beliefs.isna().any() else [round(b, 4) for b in beliefs.tolist()],
            "cost": {k: round(v, 3) for k, v in asdict(one.cost).items()},
        })  # fmt: skip
        tokens |= {*one.tokens.guess.tolist(), *one.tokens.truth.tolist()}
    assert rows is not None
    words = texts[0].tokens.truth.tolist() if texts else []
    tokens |= set(words)
    shown = {token: piece(token) for token in sorted(tokens)}
    kept = {
        **{column: rows[column].tolist() for column in ROWS},
        **({"text": words} if texts else {}),
        "pieces": {str(token): text for token, text in shown.items() if isinstance(text, str)},
        "bytes": {str(token): text.hex() for token, text in shown.items() if isinstance(text, bytes)},
        "said": said,
    }
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")) + "\n"
