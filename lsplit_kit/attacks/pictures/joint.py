"""One latent that explains the hidden tensors of several calls: what a single one leaves open, the next ones say.

A deterministic sampler makes each latent of the one before, by way of the public ends of the denoiser and of what came
down between them, so all calls are equations for one unknown latent, and for the guidance scale beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...split.picture_host import combine
from .clock import Clock, first
from .guidance import DIGITS
from .head import Ends
from .run import Run


def jointly(
    ends: Ends,
    run: Run,
    clock: Clock,
    answers: Mapping[int, Tensor | None],
    times: Mapping[int, Tensor],
    scale: float,
    iterations: int,
    pull: float,
) -> tuple[dict[int, Tensor], float | None, int]:
    """(what the denoiser read [1, C, h, w] at each of these calls, the guidance scale, how often the ends were run).

    answers: what came down at the calls, which follow each other; None where the public model has to compute it.
    scale: where its search begins. A sampler that remembers noises is right from its first call on only.
    """
    clock.check()
    calls = sorted(answers)
    begin, pairs = calls[0], ends.rows > 1
    hidden = {call: run.inputs[call] for call in calls}
    units = {call: hidden[call].square().mean() for call in calls}
    size = [side * 2**ends.depth for side in hidden[begin].shape[-2:]]
    unknown = torch.zeros(1, ends.channels, *size, requires_grad=True)
    strength = torch.tensor(float(scale), requires_grad=True)
    tried = 0

    def roll() -> tuple[Tensor, dict[int, Tensor]]:
        loss, latent, reads = pull * unknown.square().mean(), unknown / clock.scale(begin), {}
        scheduler = clock.fresh_at(begin)
        for call in calls:
            reads[call] = latent * clock.scale(call)
            rows = reads[call].expand(ends.rows, -1, -1, -1)
            made = ends.up(rows, times[call])
            loss = loss + (made - hidden[call]).square().mean() / units[call] / len(calls)
            if call == calls[-1]:
                return loss, reads
            output = first(ends.noise(rows, times[call], answers[call]), latent)
            noise = combine(output, strength) if pairs else output  # type: ignore[arg-type]
            latent = scheduler.step(noise, clock.times[call], latent, return_dict=False)[0]
        raise AssertionError("unreachable")

    with torch.enable_grad():
        search = torch.optim.LBFGS(
            [unknown, strength] if pairs else [unknown], max_iter=iterations, history_size=20,
            line_search_fn="strong_wolfe", tolerance_grad=1e-12, tolerance_change=1e-14,
        )  # fmt: skip

        def misfit() -> Tensor:
            nonlocal tried
            tried += 1
            search.zero_grad()
            loss = roll()[0]
            loss.backward()
            return loss

        search.step(misfit)
    with torch.no_grad():
        reads = roll()[1]
    return reads, round(float(strength.detach()), DIGITS) if pairs else None, tried
