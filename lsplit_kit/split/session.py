"""The far half of a session: a body that crops its cache to where a step starts, runs, and answers."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from ..errors import CacheMiss, FrameError, LimitExceeded
from ..quantization import Calibration, Encoded
from ..wire.link import Message
from ..wire.message import POLICIES, HostInfo, Open, Step, ints_from_wire
from .blocks import growing_cache, held_bytes
from .needs import check_work, kept
from .pool import Pool
from .sessions import Remembered, Sessions, Work
from .telling import tensors_of
from .together import Joint, joinable, run


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
        """Bytes of keys, values and hidden vectors, and of the last answer."""
        kept = self.history.nbytes if self.history is not None else 0
        return held_bytes(self.cache) + kept + len(self.last[2] or b"")

    def forget(self) -> bool:
        """Nothing is remembered; the next step that builds on it is answered with CacheMiss."""
        self.cache = self.history = self.positions = None
        self.have = 0
        self.last = (*self.last[:2], None)
        return True


class Body(Sessions[Session, Step]):
    """Decoder layers [start, stop) of a model, ready to answer steps; one computation at a time for all sessions.

    joins: whether several sessions can go on in one pass, as of another range of the same layers; None: not known.
    """

    policies, message = POLICIES, Step

    def __init__(self, base: nn.Module, info: HostInfo, pool: Pool | None = None, joins: bool | None = None) -> None:
        super().__init__(info, pool)
        self.base, self.dtype, self._joins = base, getattr(torch, info.dtype), joins
        self.prepare()

    def prepare(self) -> None:
        """Try, once, whether several sessions can go on in one pass: a few forward passes, if the pool wants to know.

        A host does so before it lets anybody in: afterwards a new connection waits for no computation.
        """
        if self.pool.gather and self._joins is None:
            with self.pool.computing:
                self._joins = joinable(self.base)

    def fork(self) -> Body:
        """The same body with its own sessions, for one more connection; compute stays one at a time."""
        return self.part(self.base, self.info)

    def part(self, base: nn.Module, info: HostInfo) -> Body:
        """A body of some of these layers, or all, with its own sessions; it can do together what this one can."""
        self.prepare()
        return Body(base, info, self.pool, self._joins)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The layers' tensors and the base's tables, by their names in the whole base class."""
        return self.named(tensors_of(self.base))

    def named(self, tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Tensors of the base with the layers counted as in the whole model."""
        for name, tensor in tensors:
            inside = re.match(r"(\w+)\.(\d+)\.(.*)", name)
            if inside:
                where, number, rest = inside.groups()
                rest = rest.removeprefix("layer.") if number == "0" else rest  # the first one is wrapped
                name = f"{where}.{int(number) + self.info.start}.{rest}"
            yield name, tensor

    def _builds(self, session: Session, step: Step) -> bool:
        return step.start > 0 or step.step_no == session.last[0]

    def _begin(self, terms: Open) -> Session:
        return Session(terms, self.calibrations)

    def joins(self, number: int, step: Message) -> object:
        """The model, for a step that goes one position further in one text: such steps can be computed together."""
        session = self.sessions.get(number)
        alike = session is not None and isinstance(step, Step) and self._one_further(session, step)
        return self.base if alike else None

    def _one_further(self, s: Session, step: Step) -> bool:
        plain = step.batch == step.tokens == 1 and not (step.rows or step.positions)
        return (
            self.pool.gather
            and bool(self._joins)
            and plain
            and 0 < step.start <= s.have
            and s.cache is not None
            and not any(s.pads)
        )

    def _work(self, session: Session, step: Step) -> Work:
        """The down payload [B, T, d]."""
        self._check(session, step)
        with self.coding():
            hidden = session.up.decode(Encoded(session.up.spec, self._shape(step), step.payload), self.dtype)
        rows, pads, at = self._control(session, step)
        try:
            with torch.inference_mode():
                self._rewind(session, step.start, rows)
            if session.policy != "kv":
                out = yield from self._anew(session, hidden, pads, at)
            elif self._one_further(session, step):
                out = yield from self._joined(session, hidden)
            else:
                out = yield from self._onward(session, hidden, pads, at)
            with self.coding(), torch.inference_mode():  # here, because a failure must not leave the rows gathered
                payload = session.down.encode(out[:, -step.keep :] if step.keep else out).payload
        except BaseException:
            session.forget()  # half-written state is no state: the client replays
            raise
        session.have = 0 if session.policy == "none" else step.start + step.tokens
        session.batch, session.pads = step.batch, pads
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
        if step.keep > step.tokens:
            raise FrameError(f"Of {step.tokens} positions the last {step.keep} cannot come down.")
        if step.start > session.have:
            raise CacheMiss(f"The step starts at {step.start}, this host has {session.have}.", have=session.have)
        if step.start and not step.rows and step.batch != session.batch:
            raise FrameError(f"The session has {session.batch} rows, the step {step.batch}.")
        check_work(self.base, self.info, step, session.policy != "kv")
        self.pool.reserve(session, self._kept(session, step))

    def _kept(self, session: Session, step: Step) -> int:
        """Bytes that the session has at the end of a step, its answer included."""
        answer = session.down.payload_bytes((step.batch, step.keep or step.tokens, self.info.width))
        return kept(self.base, self.info, session.policy, step.batch, step.start, step.tokens) + answer

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

    def _joined(self, s: Session, hidden: Tensor) -> Generator[Joint, Tensor | None, Tensor]:
        """One position, computed by whoever runs this step, perhaps with others."""
        assert s.cache is not None
        out = yield Joint(self.base, hidden, s.cache)
        return out if out is not None else self._forward(hidden, [0], None, s.cache)

    def _onward(
        self, s: Session, hidden: Tensor, pads: list[int], at: Tensor | None
    ) -> Generator[None, Tensor | None, Tensor]:
        """New positions behind the keys and values of old ones; a long prompt lets others come in between."""
        s.cache = s.cache if s.cache is not None else growing_cache(self.base.config)
        return (yield from self._pieces(hidden, pads, at, [s.cache], self._piece(hidden.shape[1])))

    def _piece(self, count: int) -> int:
        """Positions, of so many, that are computed at once."""
        return self.pool.piece if self.pool.piece and self.pool.crowded() else count

    def _pieces(
        self, hidden: Tensor, pads: list[int], at: Tensor | None, held: Sequence[DynamicCache | None], piece: int
    ) -> Generator[None, Tensor | None, Tensor]:
        """held: what holds keys and values, alone; where it is empty after a while, all is computed anew, at once."""
        outs: list[Tensor] = []
        for part in hidden.split(piece, dim=1):
            if outs:
                yield None
            if not (now := held[:1]):  # a copy: another thread may empty it
                return self._forward(hidden, pads, at, None)
            done = sum(out.shape[1] for out in outs)
            outs.append(self._forward(part, pads, None if at is None else at[:, done : done + part.shape[1]], now[0]))
            del now
        return torch.cat(outs, dim=1) if len(outs) > 1 else outs[0]

    def _anew(
        self, s: Session, hidden: Tensor, pads: list[int], at: Tensor | None
    ) -> Generator[None, Tensor | None, Tensor]:
        """Everything that is remembered, and the new positions, from the beginning.

        Pieces need the keys and values of those before, for the time of this step. Where there is no spare memory for
        them, or none is left after a while, all is computed at once: nobody shall forget anything, or wait, for what is
        thrown away.
        """
        new = hidden.shape[1]
        if s.history is not None:
            hidden = torch.cat([s.history, hidden], dim=1)
            at = at if at is None or s.positions is None else torch.cat([s.positions, at], dim=1)
        batch, count, _ = hidden.shape
        piece, spare = self._piece(count), [growing_cache(self.base.config)]
        size = kept(self.base, self.info, "kv", batch, 0, count)
        if piece < count and self.pool.spare(s, size, spare.clear):
            out = yield from self._pieces(hidden, pads, at, spare, piece)
        else:
            out = self._forward(hidden, pads, at, None)
        if s.policy == "hidden":
            s.history, s.positions = hidden, at
            out = out[:, -new:]
        return out

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
        options: dict[str, object] = {"attention_mask": None}
        if any(pads):
            options["attention_mask"] = (torch.arange(past + tokens)[None] >= torch.tensor(pads)[:, None]).long()
        if at is not None:
            options["position_ids"] = at
        with self.pool.computing, torch.inference_mode():
            return run(self.base, hidden, cache, **options)
