"""The far half of a session: a body that crops its cache to where a step starts, runs, and answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from ..errors import CacheMiss, FrameError, LimitExceeded
from ..quantization import Calibration, Encoded
from ..wire.message import POLICIES, HostInfo, Open, Step, ints_from_wire
from .sessions import MAX_REMEMBERED, Remembered, Sessions


class Session(Remembered):
    """What a host remembers for one client cache: keys and values, or the hidden vectors, never tokens."""

    def __init__(self, terms: Open, given: Mapping[str, Calibration]) -> None:
        super().__init__(terms, given)
        self.cache: DynamicCache | None = None
        self.history: Tensor | None = None
        self.positions: Tensor | None = None
        self.pads: list[int] = []
        self.have = self.batch = 0

    def size(self) -> int:
        """Bytes of keys, values and hidden vectors."""
        held = [
            t for layer in (self.cache.layers if self.cache is not None else ()) for t in (layer.keys, layer.values)
        ]
        return sum(t.nbytes for t in (*held, self.history) if isinstance(t, Tensor))


class Body(Sessions[Session, Step]):
    """Decoder layers [start, stop) of a model, ready to answer steps; one compute lock for all sessions."""

    policies, message = POLICIES, Step

    def __init__(self, base: nn.Module, info: HostInfo, lock: threading.Lock | None = None) -> None:
        super().__init__(info, lock)
        self.base, self.dtype = base, getattr(torch, info.dtype)

    def fork(self) -> Body:
        """The same body with its own sessions, for one more connection; compute stays one at a time."""
        return Body(self.base, self.info, self._lock)

    def _begin(self, terms: Open) -> Session:
        return Session(terms, self.calibrations)

    def _answer(self, session: Session, step: Step) -> bytes:
        """The down payload [B, T, d]."""
        self._check(session, step)
        with self.coding():
            hidden = session.up.decode(Encoded(session.up.spec, self._shape(step), step.payload), self.dtype)
        rows, pads, positions = self._control(session, step)
        with self._lock, torch.inference_mode():
            return self._run(session, step, hidden, rows, pads, positions)

    def _shape(self, step: Step) -> tuple[int, int, int]:
        return (step.batch, step.tokens, self.info.width)

    def _check(self, session: Session, step: Step) -> None:
        if not (1 <= step.batch <= self.info.max_rows and step.tokens >= 1):
            raise LimitExceeded(f"A step has 1 to {self.info.max_rows} rows and at least one token.")
        if step.start + step.tokens > self.info.max_tokens:
            raise LimitExceeded(
                f"{step.start + step.tokens} positions; this model's context ends at {self.info.max_tokens}."
            )
        if session.policy == "none" and step.start:
            raise FrameError("Policy none sends everything again: a step starts at 0.")
        if step.keep > step.tokens:
            raise FrameError(f"Of {step.tokens} positions the last {step.keep} cannot come down.")
        if step.start > session.have:
            raise CacheMiss(f"The step starts at {step.start}, this host has {session.have}.", have=session.have)
        if session.have and step.start:
            each = session.size() / (session.have * session.batch)
            if each * (step.start + step.tokens) * step.batch > MAX_REMEMBERED:
                raise LimitExceeded(f"This host remembers at most {MAX_REMEMBERED:,} bytes for one connection.")
        if step.start and not step.rows and step.batch != session.batch:
            raise FrameError(f"The session has {session.batch} rows, the step {step.batch}.")

    def _control(self, session: Session, step: Step) -> tuple[list[int] | None, list[int], Tensor | None]:
        for what, most in (("rows", step.batch), ("pads", step.batch), ("positions", step.batch * step.tokens)):
            if len(getattr(step, what)) > 4 * most:  # before a list of ints nine times its size is built
                raise FrameError(f"{what} holds more than {most} numbers.")
        rows = ints_from_wire(step.rows, "rows") if step.rows else None
        if rows is not None and step.start == 0:
            rows = None  # nothing remembered, nothing to gather
        if rows is not None and (len(rows) != step.batch or not all(0 <= r < session.batch for r in rows)):
            raise FrameError(f"rows must name {step.batch} of the session's {session.batch} rows.")
        if step.start == 0:
            pads = ints_from_wire(step.pads, "pads") if step.pads else [0] * step.batch
            if len(pads) != step.batch or not all(0 <= p < 2**20 for p in pads):
                raise FrameError(f"pads must be one count for each of {step.batch} rows.")
        else:
            pads = [session.pads[r] for r in rows] if rows is not None else session.pads
        stop = step.start + step.tokens
        if step.positions == b"":
            return rows, pads, None
        if step.positions == b"p":
            span = torch.arange(step.start, stop)[None] - torch.tensor(pads)[:, None]
            return rows, pads, span.clamp(min=0)
        values = ints_from_wire(step.positions, "positions")
        if len(values) not in (step.tokens, step.batch * step.tokens):
            raise FrameError("positions must be one number per token, or per row and token.")
        if not all(0 <= v < self.info.max_tokens for v in values):
            raise LimitExceeded(f"positions must lie below {self.info.max_tokens}.")
        return rows, pads, torch.tensor(values).reshape(-1, step.tokens)

    def _run(
        self, s: Session, step: Step, hidden: Tensor, rows: list[int] | None, pads: list[int], at: Tensor | None
    ) -> bytes:
        try:
            self._rewind(s, step.start, rows)
            if s.policy == "kv":
                s.cache = s.cache if s.cache is not None else DynamicCache(config=self.base.config)
                out = self._forward(hidden, pads, at, s.cache)
            else:
                if s.history is not None:  # the body recomputes everything it remembers
                    hidden = torch.cat([s.history, hidden], dim=1)
                    at = at if at is None or s.positions is None else torch.cat([s.positions, at], dim=1)
                out = self._forward(hidden, pads, at, None)
                if s.policy == "hidden":
                    s.history, s.positions = hidden, at
                    out = out[:, -step.tokens :]
            with self.coding():
                payload = s.down.encode(
                    out[:, -step.keep :] if step.keep else out
                ).payload  # here, because a failure must not leave the rows gathered
        except Exception:
            s.cache = s.history = s.positions = None  # half-written state is no state: the client replays
            s.have = 0
            raise
        s.have, s.batch, s.pads = (0 if s.policy == "none" else step.start + step.tokens), step.batch, pads
        return payload

    def _rewind(self, s: Session, start: int, rows: list[int] | None) -> None:
        if start == 0:
            s.cache = s.history = s.positions = None
            return
        if s.cache is not None:
            if start < s.have:
                try:
                    s.cache.crop(start - s.have)
                except RuntimeError:  # a sliding window has dropped what the rollback needs
                    s.cache, s.have = None, 0
                    raise CacheMiss("This cache cannot be cropped that far; replay it.", have=0) from None
            if rows is not None:
                s.cache.reorder_cache(torch.tensor(rows))
        if s.history is not None:
            s.history = s.history[:, :start] if rows is None else s.history[rows, :start]
            if s.positions is not None:
                wide = rows is not None and s.positions.shape[0] > 1
                s.positions = s.positions[rows, :start] if wide else s.positions[:, :start]

    def _forward(self, hidden: Tensor, pads: list[int], at: Tensor | None, cache: DynamicCache | None) -> Tensor:
        batch, tokens, _ = hidden.shape
        past = cache.get_seq_length() if cache is not None else 0
        mask = None
        if any(pads):
            mask = (torch.arange(past + tokens)[None] >= torch.tensor(pads)[:, None]).long()
        entry = next(m for m in self.base.children() if isinstance(m, nn.ModuleList))[0]
        entry.received = hidden
        call: dict[str, object] = {"attention_mask": mask, "past_key_values": cache, "use_cache": cache is not None}
        if at is not None:
            call["position_ids"] = at
        try:
            zeros = torch.zeros((), dtype=hidden.dtype).expand(hidden.shape)
            return self.base(inputs_embeds=zeros, **call).last_hidden_state.reshape(hidden.shape)
        finally:
            entry.received = None
