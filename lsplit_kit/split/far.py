"""The near end of a far denoiser: one session a picture, one exchange a call, everything again when the host forgot."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import (
    CacheMiss,
    CodecError,
    FrameError,
    HostTimeout,
    HostUnavailable,
    LimitExceeded,
    LsplitError,
    SessionUnknown,
    UnsupportedOption,
)
from ..quantization import Codec, codec
from ..wire.link import Link, begin
from ..wire.message import MODES, Exchange, Open, PictureStep, Sent
from ..wire.tap import Where
from .form import Packer
from .picture_host import read_answer
from .tensor_bytes import laid_out, layout_of

Shape = tuple[int | None, ...]
Asked = tuple[int, dict[str, Any], dict[str, list]]  # position in the run, tree of the call, how its tensors cross


class Far:
    """Sends calls to a denoiser at the other end of a link. `watchers` see every crossing."""

    def __init__(self, link: Link, mode: str, up: str, down: str) -> None:
        if mode not in MODES:
            raise UnsupportedOption(f"Unknown mode {mode!r}; choose one of {', '.join(MODES)}.")
        self.link, self.policy, self.up, self.down = link, mode, codec(up), codec(down)
        self.watchers: list[Callable[[Where, list[Sent], list[Sent], Exchange], None]] = []
        self._session: int | None = None
        self._epoch = self._number = 0
        self._shapes: list[list] = []
        self._coders: list[Codec] = []
        self._packer = Packer(self.up)
        self._sent: list[Sent] = []
        if self.up.stateful:
            raise CodecError(f"{self.up.spec} predicts from step to step, which only what comes down can do.")

    def ask(self, build: Callable[[bool], Asked], dtype: torch.dtype, wanted: Sequence[Shape]) -> list[Tensor]:
        """The outputs of one call; `build(fresh)` says what crosses, fresh when the host remembers nothing.

        wanted: the outputs' shapes, None where any size will do; another answer is a FrameError.
        """
        for last_try in (False, False, True):
            fresh = self._open()
            try:
                return self._send(*build(fresh), replay=fresh and self._number > 0, dtype=dtype, wanted=wanted)
            except (CacheMiss, SessionUnknown, HostUnavailable) as lost:
                if isinstance(lost, CacheMiss):
                    self._drop()
                self._session = None
                if last_try or isinstance(lost, HostTimeout):
                    raise
            except BaseException:
                self._session = None  # what the host kept of a refused call is not known: the next one begins anew
                raise
        raise AssertionError("unreachable")

    def theirs(self, name: str, ours: Tensor) -> Tensor:
        """`ours` as the host has it, where the last call sent it under this name; else itself."""
        encoded = next((s.encoded for s in self._sent if s.name == name and s.encoded.spec == self.up.spec), None)
        return ours if encoded is None else laid_out(self.up.decode(encoded, ours.dtype), layout_of(ours))

    @property
    def asked(self) -> int:
        """Calls of this picture so far."""
        return self._number

    def end(self) -> None:
        """The picture is done: the host forgets its session."""
        with contextlib.suppress(LsplitError):  # a host that is gone has forgotten already
            self._drop()
        self._session, self._number = None, 0

    def _open(self) -> bool:
        if self._session is not None and self._epoch == self.link.epoch:
            return False
        terms = Open(self.policy, self.up.spec, self.down.spec)
        self._session = begin(self.link, terms, self.up, self.down)
        self._epoch, self._shapes, self._coders, self._packer = self.link.epoch, [], [], Packer(self.up)
        return True

    def _send(
        self, start: int, tree: dict, how: dict, *, replay: bool, dtype: Any, wanted: Sequence[Shape]
    ) -> list[Tensor]:
        form, sent = self._packer.pack(tree, how)
        self._sent = sent
        payload = b"".join(s.encoded.payload for s in sent)
        if len(form) + len(payload) > self.link.info.max_frame - 4096:
            raise LimitExceeded(
                f"This call needs {len(payload):,} bytes up, the host takes {self.link.info.max_frame:,}; use a "
                "smaller picture, a smaller codec, or another cut."
            )
        self._number += 1
        assert self._session is not None
        done = self.link.step(self._session, PictureStep(self._number, start, form, payload))
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
        where = Where("replay" if replay else "step", self._session, self._number, start)
        for watch in self.watchers:
            watch(where, sent, down, done)
        return out

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
