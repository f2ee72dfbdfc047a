"""The Remote: the one module that stands in the layer list where the body's layers were."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..cache import RemoteSlot, adopt
from ..errors import (
    Busy,
    CacheMiss,
    CodecError,
    HostUnavailable,
    LimitExceeded,
    SessionUnknown,
    UnsupportedOption,
)
from ..quantization import Encoded, codec
from ..wire.link import Link, begin
from ..wire.message import POLICIES, Exchange, Open, Sent, Step, ints_from_wire, ints_to_wire
from ..wire.patience import Patience
from ..wire.tap import Where
from .call import Call

Watcher = Callable[[Where, list[Sent], list[Sent], Exchange], None]


class NoGradient(torch.autograd.Function):
    """Lets a forward pass through and refuses the backward pass: a gradient that skipped the body would be wrong."""

    @staticmethod
    def forward(ctx: object, hidden: Tensor, out: Tensor) -> Tensor:
        """The body's answer [B, T, d], tied to what went up."""
        return out.view_as(out)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple:
        """UnsupportedOption, always."""
        raise UnsupportedOption(
            "Gradients do not cross the wire: freeze the head; only the tail of a split model trains."
        )


class Remote(nn.Module):
    """Sends hidden tensors [B, T, d] to the body and returns what comes back, in the replaced layer's convention."""

    def __init__(self, link: Link, policy: str, up: str, down: str, chunk: int | None = None) -> None:
        super().__init__()
        if policy not in POLICIES:
            raise UnsupportedOption(f"Unknown cache policy {policy!r}; choose one of {', '.join(POLICIES)}.")
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise UnsupportedOption(f"chunk takes a number of positions above 0, got {chunk!r}.")
        if chunk is not None and policy != "kv":
            raise UnsupportedOption(f"chunk needs cache='kv': under {policy!r} each would compute all before it again.")
        self.link, self.policy, self.chunk = link, policy, chunk
        self.up, self.down = codec(up), codec(down)
        if self.up.stateful or self.down.stateful:
            raise CodecError("Prediction (+delta) is for the steps of a picture; a language model's tokens have none.")
        self.watchers: list[Watcher] = []
        self.patience = Patience()
        self.current = threading.local()  # the call under way in this thread: masks do not reach layers as pad counts
        self._closing: deque[tuple[int, int]] = deque()

    def take_convention(self, layer: nn.Module, index: int, returns_tuple: bool) -> None:
        """Copy how the base class calls and reads the layer that stood here."""
        self.index = index
        self.signature = inspect.signature(type(layer).forward)
        self.returns_tuple = returns_tuple
        for name in ("attention_type", "is_sliding", "layer_type"):
            if hasattr(layer, name):
                setattr(
                    self,
                    name,
                    {"attention_type": "full_attention", "is_sliding": False}.get(name, getattr(layer, name)),
                )

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> object:
        """One crossing each way; hidden_states [B, T, d] of the new positions."""
        given = self.signature.bind_partial(self, hidden_states, *args, **kwargs).arguments if args else kwargs
        cache = next((given[n] for n in ("past_key_values", "past_key_value", "layer_past") if n in given), None)
        slot = adopt(cache, self.index) if cache is not None else RemoteSlot()
        out = self._cross(slot, hidden_states).to(hidden_states.device, hidden_states.dtype)
        if cache is None:
            slot.reset()
        if hidden_states.requires_grad and torch.is_grad_enabled():
            out = NoGradient.apply(hidden_states, out)
        return (out, None) if self.returns_tuple else out

    def _cross(self, slot: RemoteSlot, hidden: Tensor) -> Tensor:
        call: Call = self.current.call
        batch, tokens, _ = hidden.shape
        past = slot.get_seq_length()
        if past and slot.pads is not None and call.pads != slot.pads:
            raise UnsupportedOption(f"The attention mask changed: rows had {slot.pads} left pads, now {call.pads}.")
        slot.pads = call.pads
        if past and slot.history.shape[0] != batch:
            raise UnsupportedOption(f"The cache holds {slot.history.shape[0]} rows, this call brings {batch}.")
        slot.append(hidden.detach(), call.verbatim)
        try:
            out = self._deliver(slot, call, past)[:, -tokens:]
            missing = tokens - out.shape[1]  # nobody looks at them, but their places are counted
            return torch.cat([out.new_zeros(batch, missing, out.shape[2]), out], dim=1) if missing else out
        except BaseException:
            slot.crop(-tokens)  # the call did not happen: the history ends where it did before
            raise

    def _deliver(self, slot: RemoteSlot, call: Call, past: int) -> Tensor:
        retry = self.patience.call(self.link, slot)
        while True:
            try:
                return self._send(slot, call, past)
            except (Busy, CacheMiss, SessionUnknown, HostUnavailable) as error:
                if not isinstance(error, Busy):  # what the host forgot is replayed
                    slot.sent, slot.session = 0, slot.session if isinstance(error, CacheMiss) else None
                retry.after(error)

    def _send(self, slot: RemoteSlot, call: Call, past: int) -> Tensor:
        link, end = self.link, slot.get_seq_length()
        if end > link.info.max_tokens:  # before anything goes up
            raise LimitExceeded(f"{end:,} positions; this model's context ends at {link.info.max_tokens:,}.")
        self.drop_closed()
        if slot.session is None or slot.epoch != link.epoch:
            terms = Open(self.policy, self.up.spec, self.down.spec)
            slot.bind(begin(link, terms, self.up, self.down), link.epoch, self._closing)
            slot.sent = 0
        session = slot.session
        start = 0 if self.policy == "none" else slot.sent
        wanted = min(call.wanted or end, end - past) if self.policy != "none" else end
        spans = self._chunks(slot, start, end)
        replay = start < past and self.policy != "none"
        steps = (self._step(slot, call, span, max(span[0], end - wanted), span == spans[0]) for span in spans)
        kinds = ["replay" if replay and first < past else "step" for first, _ in spans]
        if len(spans) == 1:
            step, up = next(steps)
            return self._took(slot, step, up, link.step(session, step), kinds[0])
        under_way: list[tuple[Step, Encoded]] = []
        parts: list[tuple[Step, Tensor]] = []
        try:
            for step, up in steps:
                link.send(session, step)
                under_way.append((step, up))
            for kind, (step, up) in zip(kinds, under_way, strict=True):
                parts.append((step, self._took(slot, step, up, link.receive(session), kind)))
        except BaseException:
            link.abandon(session)
            slot.session, slot.sent = None, 0
            raise
        return torch.cat([part for step, part in parts if step.start + step.tokens > end - wanted], dim=1)

    def _chunks(self, slot: RemoteSlot, start: int, end: int) -> list[tuple[int, int]]:
        batch, _, width = slot.history.shape
        worst = max(c.payload_bytes((batch, 1, width)) for c in (self.up, self.down))
        most = (self.link.info.max_frame - 65536) // worst
        most = min(most, self.chunk) if self.chunk is not None else most
        if most < 1 or (self.policy == "none" and end > most):
            raise LimitExceeded(f"{end} positions x {batch} rows do not fit the host's frame limit under this policy.")
        return [(b, min(end, b + most)) for b in range(start, end, most)]

    def _step(
        self, slot: RemoteSlot, call: Call, span: tuple[int, int], look: int, first: bool
    ) -> tuple[Step, Encoded]:
        """The step that sends the positions of `span`; those from `look` on will be looked at."""
        start, stop = span
        up = self.up.encode(slot.history[:, start:stop])
        batch, tokens, _ = up.shape
        positions = b"p" if call.counted == "pads" else b""
        if slot.positions is not None:
            positions = ints_to_wire(slot.positions[:, start:stop].flatten().tolist())
        slot.step_no += 1
        step = Step(
            slot.step_no, start, batch, tokens, up.payload,
            rows=ints_to_wire(slot.rows) if slot.rows is not None and start and first else b"",
            pads=ints_to_wire(slot.pads) if start == 0 and any(slot.pads or ()) else b"",
            positions=positions, keep=max(1, stop - look) if look > start else 0,
        )  # fmt: skip
        return step, up

    def _took(self, slot: RemoteSlot, step: Step, up: Encoded, done: Exchange, kind: str) -> Tensor:
        """The tensor that came down for a step, noted."""
        down = Encoded(self.down.spec, (step.batch, step.keep or step.tokens, up.shape[2]), done.payload)
        tensor = self.down.decode(down, slot.history.dtype)
        slot.rows, slot.sent = None, step.start + step.tokens
        where = Where(
            kind, slot.session or 0, step.step_no, step.start,
            pads=tuple(slot.pads or ()) if step.pads else (), rows=tuple(ints_from_wire(step.rows, "rows")),
        )  # fmt: skip
        size = tensor.numel() * tensor.element_size()
        for watch in tuple(self.watchers):  # another thread may come or go
            watch(where, [Sent("hidden", up, size)], [Sent("hidden", down, size)], done)
        return tensor

    def drop_closed(self) -> None:
        """Let the host forget the sessions whose caches are gone; the next step would do it."""
        while self._closing:
            try:
                epoch, number = self._closing.popleft()
            except IndexError:  # another thread took the last one
                return
            if epoch == self.link.epoch:
                self.link.close_session(number)

    def extra_repr(self) -> str:
        """What print(model) shows."""
        info = self.link.info
        codecs = f"{self.up.spec} up, {self.down.spec} down"
        return f"layers {info.start}-{info.stop - 1} of {info.model}, policy {self.policy}, {codecs}"
