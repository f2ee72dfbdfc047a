"""Reports that were made before: what the ladder of attacks read in the recordings that the kit ships."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from ..card import Card
from ..data.captures import capture as paths_of
from ..errors import CaptureError
from ..wire.capture import Capture
from .attack import Cost
from .report import Report
from .threats import THREATS, allowed, knowledge_of

ROWS = ("conversation", "position", "kind", "truth")
OBSERVER = "eavesdrop_up"  # the one they are recorded by


@dataclass(frozen=True, repr=False)
class Recorded(Card):
    """A recording: the capture (None where only reports are shipped), reports by (attack, knowledge), and token texts.

    pieces: text of every token id that is named, or bytes where it is a part of a character.
    """

    name: str
    model: str
    depth: int
    codec: str
    capture: Capture | None
    reports: dict[tuple[str, str], Report]
    pieces: dict[int, str | bytes]

    def decode(self, token: int) -> str | bytes:
        """What a token id stands for."""
        return self.pieces[token]

    def report(self, attack: str, observer: str = OBSERVER, knowledge: str = "public") -> Report:
        """What an attack read; raises NeedsKnowledge or UnsupportedOption as the attack itself does.

        Attacks of the ladder read what goes up, so that every observer who sees that reads the same.
        """
        allowed(attack, observer, _stand_in(knowledge))
        return replace(self.reports[attack, knowledge], observer=observer)

    @property
    def prior(self) -> Report:
        """The report of the attack that looks at no vector: H0 of `measure.inversion.leak_of`."""
        return self.reports["PriorOnly", "public"]

    def _card(self) -> tuple[str, dict[str, object]]:
        return f"Recording {self.name}", {
            "cut": f"behind {self.depth} layers of {self.model}",
            "codec": self.codec,
            "capture": "shipped" if self.capture else "not shipped, only its reports",
            "prompts": int(self.prior.tokens.conversation.nunique()),
            "tokens that count": len(self.prior.counted),
            "attacks": ", ".join(dict.fromkeys(attack for attack, _ in self.reports)),
        }


def _stand_in(knowledge: str) -> Any:
    """The knowledge by name, without a model: enough to tell what an attack would refuse."""
    return knowledge_of(knowledge, object(), object(), ["text"])


@lru_cache(maxsize=16)
def recorded(name: str) -> Recorded:
    """The recording of a name in `data.captures()`; raises UnsupportedOption, CaptureError where a file is damaged."""
    import pandas as pd

    at = paths_of(name)
    try:
        kept = json.loads(at.reports.read_text("utf-8"))
        rows = pd.DataFrame({column: kept[column] for column in ROWS})
        reports = {}
        for said in kept["said"]:
            guess, beliefs = pd.Series(said["guess"]), said["log_prob"]
            tokens = rows.assign(
                guess=guess, right=guess == rows.truth, rank=said["rank"],
                log_prob=float("nan") if beliefs is None else pd.Series(beliefs, dtype=float), mass=float("nan"),
            )  # fmt: skip
            reports[said["attack"], said["knowledge"]] = Report(said["attack"], OBSERVER, tokens, Cost(**said["cost"]))
        pieces: dict[int, str | bytes] = {int(token): text for token, text in kept["pieces"].items()}
        pieces |= {int(token): bytes.fromhex(text) for token, text in kept["bytes"].items()}
    except (OSError, KeyError, TypeError, ValueError) as err:
        raise CaptureError(f"{at.reports} holds no readable reports ({type(err).__name__}).") from None
    found = None if at.path is None else Capture.load(at.path)
    return Recorded(name, at.model, at.depth, at.codec, found, reports, pieces)


def dumped(reports: Iterable[tuple[str, Report]], piece: Any) -> str:
    """Reports with their knowledge (a name in THREATS), as the JSON that `recorded` reads; piece(token): its text.

    Beliefs are rounded to a ten-thousandth of a nat; masses are left out.
    """
    said, rows, tokens = [], None, set()
    for knowledge, one in reports:
        assert knowledge in THREATS
        rows = one.tokens[list(ROWS)] if rows is None else rows
        beliefs = one.tokens.log_prob
        said.append({
            "attack": one.attack, "knowledge": knowledge, "guess": one.tokens.guess.tolist(),
            "rank": one.tokens["rank"].tolist(),
            "log_prob": None if beliefs.isna().any() else [round(b, 4) for b in beliefs.tolist()],
            "cost": {k: round(v, 3) for k, v in asdict(one.cost).items()},
        })  # fmt: skip
        tokens |= {*one.tokens.guess.tolist(), *one.tokens.truth.tolist()}
    assert rows is not None
    shown = {token: piece(token) for token in sorted(tokens)}
    kept = {
        **{column: rows[column].tolist() for column in ROWS},
        "pieces": {str(token): text for token, text in shown.items() if isinstance(text, str)},
        "bytes": {str(token): text.hex() for token, text in shown.items() if isinstance(text, bytes)},
        "said": said,
    }
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":")) + "\n"
