"""What a host holds, tensor by tensor, and whether that is the body and nothing else.

A host tells it itself. Of one that you started from this package it is what its program finds in its own memory; of
anybody else's it is a statement, which nothing here can check.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ..card import Card
from ..errors import AuditFailed
from ..remote.target import WHOSE, Target, target_of
from ..wire.watch import Health, Holding

if TYPE_CHECKING:
    import pandas as pd

BODY = ("decoder layer", "denoiser", "table")  # what a host of a split may hold
_TABLE = re.compile(r"(^|\.)(rotary\w*|rope\w*|alibi\w*|\w*inv_freq|embed_scale|causal_mask|position_ids)(\.|$)")
_ENDS = (
    ("LM head", re.compile(r"(^|\.)(lm_head|embed_out|output_projection)\.")),
    ("embedding", re.compile(r"(^|\.)\w*(embed|wte|wpe)\w*\.")),
    ("final norm", re.compile(r"(^|\.)(\w*norm\w*|ln_f)\.")),
)
_PARTS = (
    ("vae", "VAE"), ("text_encoder", "text encoder"), ("tokenizer", "tokenizer"), ("unet", "denoiser"),
    ("transformer", "denoiser"), ("image_encoder", "image encoder"), ("safety_checker", "safety checker"),
)  # fmt: skip


def role(name: str, health: Health, pipeline: bool = False) -> str:
    """What a tensor is, by its name in the whole model; "unknown" where no name is known to belong to a body.

    pipeline: the names are those of a whole pipeline's parts.
    """
    if health.kind == "parts":
        if name.startswith("denoiser."):
            return "denoiser"
        pipeline = True
    if pipeline:
        return next((what for part, what in _PARTS if name.startswith(part)), "unknown")
    number = re.match(r"(?:[A-Za-z_]\w*\.)+(\d+)\.", name)
    if number:
        inside = health.start <= int(number[1]) < health.stop
        return "decoder layer" if inside else "layer it does not serve"
    if _TABLE.search(name):
        return "table"
    return next((what for what, pattern in _ENDS if pattern.search(name)), "unknown")


class Audit(Card):
    """What one host says it holds; `table` has a row for each tensor, `passed` says whether all of it is the body."""

    def __init__(self, name: str, whose: str, health: Health, holdings: Sequence[Holding]) -> None:
        self.name, self.whose, self.health, self.holdings = name, whose, health, list(holdings)
        pipeline = any(h.name.startswith(("vae.", "text_encoder")) for h in holdings)
        self.roles = [role(h.name, health, pipeline) for h in holdings]

    @cached_property
    def table(self) -> pd.DataFrame:
        """name, role, shape, dtype, bytes, sha256 of every tensor, and whether a body may have it."""
        import pandas as pd

        rows = [
            (h.name, what, h.shape, h.dtype, h.size, h.sha256, what in BODY)
            for h, what in zip(self.holdings, self.roles, strict=True)
        ]
        return pd.DataFrame(rows, columns=["name", "role", "shape", "dtype", "bytes", "sha256", "body"])

    def summary(self) -> list[tuple[str, int, int, bool]]:
        """(role, tensors, bytes, whether a body may have it), the largest first."""
        found: dict[str, list[int]] = {}
        for h, what in zip(self.holdings, self.roles, strict=True):
            found.setdefault(what, []).append(h.size)
        rows = [(what, len(sizes), sum(sizes), what in BODY) for what, sizes in found.items()]
        return sorted(rows, key=lambda row: -row[2])

    @property
    def passed(self) -> bool:
        """Whether there is something, and nothing but a body."""
        return bool(self.holdings) and all(what in BODY for what in self.roles) and self.health.kind != "whole"

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        wrong = sorted({what for what in self.roles if what not in BODY})
        if wrong:
            example = next(h.name for h, what in zip(self.holdings, self.roles, strict=True) if what == wrong[0])
            return f"The host holds more than a body: {', '.join(wrong)} (for instance {example})."
        if not self.holdings:
            return "The host does not say what it holds, not one tensor."
        if self.health.kind == "whole":
            return "The host was started to hold a whole model."
        return "The host holds the body and nothing else."

    @property
    def word(self) -> str:
        """Whose word this is."""
        if self.whose in ("child", "here"):
            return f"{WHOSE[self.whose]}: what its program found in its memory"
        return f"{WHOSE[self.whose]}: its own statement, which nobody can check from here"

    def check(self) -> Audit:
        """This audit; raises AuditFailed, which has it as `audit`, where the host holds more than a body."""
        if not self.passed:
            raise AuditFailed(self.verdict, self)
        return self

    def _card(self) -> tuple[str, dict[str, object]]:
        facts: dict[str, object] = {
            "result": self.verdict,
            "serves": f"{self.health.kind} {self.health.start} to {self.health.stop - 1} of {self.health.model}",
            "word of": self.word,
        }
        for what, n, size, _ in self.summary():
            facts[f"holds {what}"] = f"{n:,} tensor{'s' * (n > 1)}, {size:,} bytes" if size else "one, without tensors"
        return f"Audit: {self.name}", facts


def look_at(target: Target) -> Audit:
    """What a host that can be asked holds, whether it passes or not; raises what asking raises."""
    return Audit(target.name, target.whose, target.asked.health(), target.asked.holdings())


def look(host: object, timeout: float = 10.0, certificate: str | os.PathLike[str] | None = None) -> Audit:
    """What a host holds, whether it passes or not; raises what asking raises."""
    target = target_of(host, timeout, certificate)
    try:
        return look_at(target)
    finally:
        target.close()


def audit(host: object, timeout: float = 10.0, certificate: str | os.PathLike[str] | None = None) -> Audit:
    """What a host holds, when that is a body and nothing else; raises AuditFailed where it is more.

    host: what `lk.host` returned, "rpyc://address:port", a link or a split model; timeout: seconds for an address;
    certificate: for an address rpycs://, the bundle that you were given (or its path in LSPLIT_CERTIFICATE).
    A foreign host's audit is only its own statement. Also raises HostUnavailable, AuthError and what a link raises.
    """
    return look(host, timeout, certificate).check()
