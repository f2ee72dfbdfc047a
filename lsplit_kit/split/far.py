"""The near end of a far denoiser: one session a picture, one exchange a call, everything again when the host forgot.

Calls that can be foretold are sent together with the one that is made now, and their answers are read as the pipeline
comes to them. Where it makes another call than the one foretold, the session is let go, and the host begins anew.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import (
    Busy,
    CacheMiss,
    CodecError,
    FrameError,
    HostUnavailable,
    LimitExceeded,
    LsplitError,
    SessionUnknown,
    UnsupportedOption,
)
from ..quantization import Codec, codec
from ..wire.here import InProcess, Loopback
from ..wire.link import Link, begin
from ..wire.message import MODES, Exchange, Open, PictureStep, Sent
from ..wire.patience import Patience
from ..wire.tap import Where
from .form import Packer
from .picture_host import read_answer
from .tensor_bytes import laid_out, layout_of

Shape = tuple[int | None, ...]
Asked = tuple[int, dict[str, Any], dict[str, list]]  # position in the run, tree of the call, how its tensors cross


class Flown(NamedTuple):
    """A call under way: its number, what it says, what crosses; `done` where its answer is here already."""

    where: Where
    asked: Asked
    sent: list[Sent]
    done: Exchange | None


class Far:
    """Sends calls to a denoiser at the other end of a link. `watchers` see every crossing."""

    def __init__(self, link: Link, mode: str, up: str, down: str) -> None:
        if mode not in MODES:
            raise UnsupportedOption(f"Unknown mode {mode!r}; choose one of {', '.join(MODES)}.")
        self.link, self.policy, self.up, self.down = link, mode, codec(up), codec(down)
        self.watchers: list[Callable[[Where, list[Sent], list[Sent], Exchange], None]] = []
        self.patience = Patience()
        self._session: int | None = None
        self._epoch = self._number = 0
        self.misses = 0  # calls that were not as foretold
        self._shapes: list[list] = []
        self._coders: list[Codec] = []
        self._past: list[list[Tensor]] = []  # of each output, what a lost session's coder remembered
        self._packer = Packer(self.up)
        self._sent: list[Sent] = []
        self._flight: deque[Flown] = deque()
        if self.up.stateful:
            raise CodecError(f"{self.up.spec} predicts from step to step, which only what comes down can do.")

    def ask(
        self,
        build: Callable[[bool], Asked],
        dtype: torch.dtype,
        wanted: Sequence[Shape],
        ahead: Callable[[Asked], list[Asked]] = lambda asked: [],
    ) -> list[Tensor]:
        """The outputs of one call; `build(fresh)` says what crosses, fresh when the host remembers nothing.

        wanted: the outputs' shapes, None where any size will do; another answer is a FrameError. ahead: which calls
        will follow this one; they cross with it, and each is answered when its turn comes, if it is what was foretold.
        No outputs: the host skipped the call, as its `skip` allowed.
        """
        before = self._flight[0].where.step - 1 if self._flight else self._number
        retry = self.patience.call(self.link)
        while True:
            try:
                fresh = self._open()
                asked = self._told(build, fresh)
                if self._flight and not alike(self._flight[0].asked, asked):
                    self._number, self.misses = before, self.misses + 1
                    self._abandon()
                    fresh, ahead = self._open(), lambda asked: []
                    asked = self._told(build, fresh)
                if not self._flight:
                    self._launch(
                        [asked, *(ahead(asked) if self._worthwhile() else [])], replay=fresh and self._number > 0
                    )
                return self._land(dtype, wanted)
            except (Busy, CacheMiss, SessionUnknown, HostUnavailable) as error:
                self._lose(before, known=isinstance(error, (Busy, CacheMiss)))
                retry.after(error)
            except BaseException:
                self._abandon()  # what the host kept of a refused call is not known: the next one begins anew
                raise

    def _told(self, build: Callable[[bool], Asked], fresh: bool) -> Asked:
        """What crosses; a host that begins in the middle of a picture is told what codecs predict from, too."""
        start, tree, how = build(fresh)
        return start, {**tree, "past": self._past} if fresh and any(self._past) else tree, how

    def _lose(self, before: int, known: bool) -> None:
        """Begin anew, in a call that keeps its number; known: whether the host still has the session."""
        if known and not self._flight:
            with contextlib.suppress(LsplitError):
                self._drop()
        self._abandon()
        self._number = before

    def theirs(self, name: str, ours: Tensor) -> Tensor:
        """`ours` as the host has it, where the last call sent it under this name; else itself."""
        encoded = next((s.encoded for s in self._sent if s.name == name and s.encoded.spec == self.up.spec), None)
        return ours if encoded is None else laid_out(self.up.decode(encoded, ours.dtype), layout_of(ours))

    def skip(self) -> None:
        """A call is not made at all: it has a number, and its rows in the ledger have no bytes."""
        self._number, self._sent = self._number + 1, []
        self._tell(Where("skipped", self._session or 0, self._number, 0, True), [], Exchange(b"", 0, 0))

    @property
    def asked(self) -> int:
        """Calls of this picture so far."""
        return self._number

    def end(self) -> None:
        """The picture is done, or given up: the host forgets its session, and computes no call that was under way."""
        with contextlib.suppress(LsplitError):  # a host that is gone has forgotten already
            if not self._flight:
                self._drop()
            self._abandon()
        self._session, self._number, self.patience = None, 0, Patience()
        self._coders, self._past = [], []

    def _open(self) -> bool:
        if self._session is not None and self._epoch == self.link.epoch:
            return False
        self._abandon()
        terms = Open(self.policy, self.up.spec, self.down.spec)
        self._session = begin(self.link, terms, self.up, self.down)
        self._past = [coder.remembered() for coder in self._coders] or self._past
        self._coders = [self.down.coder() for _ in self._past]
        for coder, past in zip(self._coders, self._past, strict=True):
            coder.resume(past)
        self._epoch, self._shapes, self._packer = self.link.epoch, [], Packer(self.up)
        return True

    def _worthwhile(self) -> bool:
        """In this process there is no round trip to hide."""
        return not isinstance(self.link, InProcess) or isinstance(self.link, Loopback)

    def _launch(self, calls: list[Asked], *, replay: bool) -> None:
        """Send calls; their answers are read one by one."""
        assert self._session is not None
        for start, tree, how in calls:
            form, sent = self._packer.pack(tree, how)
            payload = b"".join(s.encoded.payload for s in sent)
            if len(form) + len(payload) > self.link.info.max_frame - 4096:
                raise LimitExceeded(
                    f"This call needs {len(payload):,} bytes up, the host takes {self.link.info.max_frame:,}; use a "
                    "smaller picture, a smaller codec, or another cut."
                )
            self._number += 1
            step, done = PictureStep(self._number, start, form, payload), None
            if len(calls) > 1:
                self.link.send(self._session, step)
            else:
                done = self.link.step(self._session, step)
            kind, behind = "replay" if replay and not self._flight else "step", bool(self._flight)
            where = Where(kind, self._session, self._number, start, behind)
            self._flight.append(Flown(where, (start, tree, how), sent, done))

    def _land(self, dtype: torch.dtype, wanted: Sequence[Shape]) -> list[Tensor]:
        assert self._session is not None
        where, (_, tree, _), self._sent, done = self._flight.popleft()
        done = self.link.receive(self._session) if done is None else done
        if not done.payload and "skip" in tree:
            self._tell(where._replace(kind="skipped"), [], done)
            return []
        crossed, self._shapes = read_answer(done.payload, self._shapes, self.down, self._coders)
        _check([encoded.shape for encoded in crossed], wanted)  # before anything of that size is made
        out = [
            laid_out(coder.decode(encoded, dtype), layout)
            for coder, encoded, (layout, *_) in zip(self._coders, crossed, self._shapes, strict=False)
        ]
        down = [
            Sent(f"out{i or ''}", encoded, tensor.numel() * tensor.element_size())
            for i, (encoded, tensor) in enumerate(zip(crossed, out, strict=True))
        ]
        self._tell(where, down, done)
        return out

    def _tell(self, where: Where, down: list[Sent], done: Exchange) -> None:
        for watch in tuple(self.watchers):  # another thread may come or go
            watch(where, self._sent, down, done)

    def _abandon(self) -> None:
        """Let go of the session and of the calls under way."""
        if self._flight and self._session is not None:
            self._flight.clear()
            with contextlib.suppress(LsplitError):
                self.link.abandon(self._session)
        self._session = None

    def _drop(self) -> None:
        if self._session is not None and self._epoch == self.link.epoch:
            self.link.close_session(self._session)
        self._session = None


def _check(shapes: list[tuple[int, ...]], wanted: Sequence[Shape]) -> None:
    good = len(shapes) == len(wanted) and all(
        len(got) == len(shape) and all(w in (None, n) for n, w in zip(got, shape, strict=True))
        for got, shape in zip(shapes, wanted, strict=True)
    )
    if not good:
        raise FrameError(f"The host answered with shapes {shapes}, {list(wanted)} were expected.")


def alike(a: Any, b: Any) -> bool:
    """Whether two calls, or parts of them, say the same."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(value, b[name]) for name, value in a.items())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    return type(a) is type(b) and a == b
