"""A host whose memory a learner wrote: the kit's local side sends it hidden vectors, the kit's layers run under it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UnsupportedOption
from ..quantization import Encoded, codec
from ..split.body import body_of
from ..split.plan import SplitPlan
from ..split.session import Body
from ..split.text import split_text
from ..wire.here import InProcess
from ..wire.message import Exchange, Open, Step

Run = Callable[[Tensor], Tensor]


class OwnHost(Protocol):
    """What a learner writes: it takes the new vectors [1, n, d] from position `start` on, and answers for them."""

    def step(self, start: int, new: Tensor) -> Tensor:
        """The body's outputs [1, n, d] for the new vectors; raises CacheMiss where it remembers fewer than `start`."""


class _Own(InProcess):
    """A link to hosts that `make` builds, one for each session."""

    def __init__(self, body: Body, make: Callable[[Run], OwnHost]) -> None:
        super().__init__(body)
        self.make, self.hosts = make, dict[int, Any]()

    def open(self, terms: Open) -> int:
        """Start a session with a host of its own."""
        number = super().open(terms)
        self.hosts[number] = self.make(body_run(self.body))
        return number

    def step(self, session: int, step: Any) -> Exchange:
        """Give one step to the learner's host."""
        assert isinstance(step, Step)
        if step.batch != 1 or step.pads or step.rows or step.positions:
            raise UnsupportedOption("A host of your own takes one row, without padding.")
        form = codec("fp32")
        new = form.decode(Encoded("fp32", (1, step.tokens, self.info.width), step.payload))
        out = self.hosts[session].step(step.start, new)
        if not isinstance(out, Tensor) or out.shape != new.shape:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise UnsupportedOption(f"step must return outputs of the shape {tuple(new.shape)}, got {got}.")
        out = out[:, -step.keep :] if step.keep else out  # the learner's answer is whole, what comes down need not be
        return Exchange(form.encode(out).payload, 0, 0)


def body_run(body: Any) -> Run:
    """The body as a function: hidden vectors of positions 0 to T - 1, [1, T, d], to its outputs for them."""

    def run(hidden: Tensor) -> Tensor:
        with torch.inference_mode():
            out = body._forward(hidden, [0], None, None)
        return out.clone()

    return run


def own_host(model: Any, make: Callable[[Run], OwnHost], head: int = 2, tail: int = 2) -> Any:
    """A split model of fp32 whose hosts `make(body)` builds; body: a function of all hidden vectors [1, T, d].

    The local side sends each vector once, as under policies hidden and kv. Raises PlanError and UnsupportedModel.
    """
    plan = SplitPlan(head, tail)
    return split_text(model, plan, _Own(body_of(model, plan), make), "kv", "fp32", "fp32")
