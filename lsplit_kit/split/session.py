"""The far half of a session: a body that crops its cache to where a step starts, runs, and answers."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from ..errors import CacheMiss, CodecError, FrameError, LimitExceeded, SessionUnknown, StepRefused
from ..quantization import Codec, Encoded, codec, specs
from ..wire.message import POLICIES, PROTOCOL, HostInfo, Open, Step, ints_from_wire

MAX_FRAME, MAX_ROWS, MAX_SESSIONS = 16 << 20, 256, 64


@dataclass
class Session:
    """What a host remembers for one client cache: keys and values, or the hidden vectors, never tokens."""

    policy: str
    up: Codec
    down: Codec
    cache: DynamicCache | None = None
    history: Tensor | None = None
    pads: list[int] = field(default_factory=list)
    positions: Tensor | None = None
    have: int = 0
    batch: int = 0
    last: tuple[int, bytes, bytes] = (-1, b"", b"")


class Body:
    """Decoder layers [start, stop) of a model, ready to answer steps; one compute lock for all sessions."""

    def __init__(self, base: nn.Module, info: HostInfo, lock: threading.Lock | None = None) -> None:
        self.base, self.info = base, info
        self.sessions: OrderedDict[int, Session] = OrderedDict()
        self._next = 0
        self._lock = lock or threading.Lock()
        self.dtype = getattr(torch, info.dtype)

    def fork(self) -> Body:
        """The same body with its own sessions, for one more connection; compute stays one at a time."""
        return Body(self.base, self.info, self._lock)

    def open(self, terms: Open) -> int:
        """Start a session under these terms; its number counts within this body (one connection)."""
        if len(terms) != 3 or any(type(x) is not str for x in terms):
            raise FrameError("open takes three strings: policy, codec up, codec down.")
        if terms.policy not in POLICIES:
            raise FrameError(f"Unknown cache policy; this host knows {', '.join(POLICIES)}.")
        for spec in (terms.up[:40], terms.down[:40]):
            if spec not in specs():
                raise CodecError(f"The host does not know the codec {spec!r}; it knows {', '.join(specs())}.")
        session = Session(terms.policy, codec(terms.up), codec(terms.down))
        self._next += 1
        self.sessions[self._next] = session
        while len(self.sessions) > MAX_SESSIONS:
            self.sessions.popitem(last=False)
        return self._next

    def close_session(self, number: int) -> None:
        """Forget a session; an unknown number is no error."""
        self.sessions.pop(number, None)

    def step(self, number: int, step: Step) -> bytes:
        """Answer one step with the down payload [B, T, d]; raises typed errors, and then the session is unchanged."""
        session = self.sessions.get(number)
        if session is None:
            raise SessionUnknown("This connection has no such session; open a new one and replay.")
        self.sessions.move_to_end(number)
        digest = step.digest()
        if step.step_no == session.last[0]:
            if digest != session.last[1]:
                raise StepRefused(f"Step {step.step_no} came twice with different contents.")
            return session.last[2]
        if step.step_no < session.last[0]:
            raise StepRefused(f"Step {step.step_no} is older than the last one, {session.last[0]}.")
        self._check(session, step)
        hidden = session.up.decode(Encoded(session.up.spec, self._shape(step), step.payload), self.dtype)
        rows, pads, positions = self._control(session, step)
        with self._lock, torch.inference_mode():
            payload = self._run(session, step, hidden, rows, pads, positions)
        session.last = (step.step_no, digest, payload)
        return payload

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
        if step.start > session.have:
            raise CacheMiss(f"The step starts at {step.start}, this host has {session.have}.", have=session.have)
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
            payload = s.down.encode(out).payload  # here, because a failure must not leave the rows gathered
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


def describe(model: str, fingerprint: str, cut: tuple[int, int], width: int, dtype: str, max_tokens: int) -> HostInfo:
    """What a body of this process says of itself."""
    import transformers

    from .. import __version__

    return HostInfo(
        PROTOCOL, __version__, str(torch.__version__), transformers.__version__, model, fingerprint, *cut, width, dtype,
        tuple(specs()), MAX_FRAME, max_tokens, MAX_ROWS, os.getpid(), cut,
    )  # fmt: skip
