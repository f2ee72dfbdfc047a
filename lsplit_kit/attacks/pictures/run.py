"""One picture as it crossed: what went into every call of the denoiser, and what came out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedOption
from ...split.skipping import Past
from ...split.tensor_bytes import from_bytes, whole_from_bytes
from ...wire.tap import Crossing
from ...wire.view import View, decoded

SAMPLES, LATENT, OUT = ("sample", "hidden_states"), "latent", "out"
TEXT = "encoder_hidden_states"


@dataclass
class Run:
    """The tensors of one session by call (0, 1, ...), as far as an observer sees them.

    inputs: what the denoiser read, [B, C, h, w] or twice as many rows; of a cut inside, the hidden tensors that the
    body read. latents: those that went up in lockstep, before the scheduler scales them. outputs: what came down.
    times: the time steps. given: all else that the denoiser was given, by name; what crossed once counts for all calls.
    """

    session: int
    inputs: dict[int, Tensor] = field(default_factory=dict)
    latents: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    times: dict[int, Tensor] = field(default_factory=dict)
    given: dict[str, Tensor] = field(default_factory=dict)
    calls: int = 0

    @property
    def text(self) -> Tensor:
        """The text embeddings [B, T, d]; raises UnsupportedOption where none crossed."""
        if TEXT not in self.given:
            raise UnsupportedOption("No text embeddings crossed in this capture, or not in this observer's sight.")
        return self.given[TEXT]

    def arguments(self) -> dict[str, Any]:
        """What a denoiser is given beside its sample and its time step."""
        found: dict[str, Any] = {}
        for name, tensor in self.given.items():
            *path, last = name.split(".")
            here = found
            for part in path:
                here = here.setdefault(part, {})
            here[last] = tensor
        return found


def runs(view: View) -> list[Run]:
    """Every picture of a view, in order; raises UnsupportedOption for a capture of something else."""
    coded = {id(c): tensor for c, tensor in decoded(view.crossings)}
    found: dict[int, Run] = {}
    pasts: dict[int, Past] = {}
    for c in view.crossings:
        if not c.step:
            continue
        run, call = found.setdefault(c.session, Run(c.session)), c.step - 1
        run.calls = max(run.calls, c.step)
        if c.direction == "down":
            past = pasts.setdefault(c.session, Past())
            if c.kind == "skipped":
                if past.skips(call, True):
                    run.outputs[call] = past.guess(call)
            elif c.name == OUT:
                run.outputs[call] = coded[id(c)]
                past.add(call, coded[id(c)])
        elif c.name:
            _up(run, call, c, coded[id(c)] if id(c) in coded else plain(c))
    if not found or not any(run.outputs or run.given for run in found.values()):
        raise UnsupportedOption("This capture holds no picture; make one with record_picture().")
    return [_from_zero(run) for run in found.values()]


def plain(c: Crossing) -> Tensor:
    """A tensor that crossed as it is, or as whole numbers."""
    way, _, name = c.codec.partition(":")
    dtype = getattr(torch, name)
    return whole_from_bytes(c.data, 0, dtype, c.shape)[0] if way == "whole" else from_bytes(c.data, dtype, c.shape)


def _up(run: Run, call: int, c: Crossing, tensor: Tensor) -> None:
    if c.name in SAMPLES:
        run.inputs[call] = tensor
    elif c.name == LATENT:
        run.latents[call] = tensor
    elif c.name == "timestep":
        run.times[call] = tensor
    elif not c.name.startswith(("sync.", "at", "past.")) and (c.name != TEXT or TEXT not in run.given):
        run.given[c.name] = tensor


def _from_zero(run: Run) -> Run:
    """The run with its first call as number 0: a session that was begun anew counts on."""
    seen = [call for part in (run.inputs, run.latents, run.outputs, run.times) for call in part]
    first = min(seen, default=0)
    for name in ("inputs", "latents", "outputs", "times") if first else ():
        setattr(run, name, {call - first: tensor for call, tensor in getattr(run, name).items()})
    run.calls -= first
    return run
