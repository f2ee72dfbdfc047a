"""A cut inside the U-Net: the hidden tensors that cross give the latent, and the latent gives the picture.

The public head is run backwards. Behind conv_in alone that is a linear system with many more equations than unknowns;
each down block squeezes more, until a hidden tensor has fewer values than the latent. Then several calls together have
enough: the latent of the first of them decides all the others.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...wire.view import OBSERVERS, View
from ..knowledge import Knowledge
from .base import Painted, PictureAttack, cut_of, drawer
from .clock import Clock
from .fitted import drawn
from .guidance import guided, usual
from .head import Ends
from .joint import jointly
from .run import Run, runs

TOGETHER = 3  # calls that one latent has to explain, at most: each costs a run of both ends at every trial
REACH = 3  # a patch of the latent is read from so many by so many places of the hidden tensor


class HiddenInversion(PictureAttack):
    """argmin |head(x) - h|^2 by L-BFGS, from where a linear decoder of patches says that x is.

    calls: how many of the last calls are inverted; two are needed to measure a guidance scale. queries: own latents
    that are put through the head to fit the decoder, 0: the search begins at zero. iterations: of the search at each
    call, 0: the decoder alone. pull: weight of staying near the decoder's answer, for hidden tensors that say too
    little. joint: search for one latent that explains the last calls together (three at most), and for the guidance
    scale with it; None: where one hidden tensor has fewer values than the latent. guidance: as in CleanEstimate.
    Own latents are those of pictures of `Knowledge.text`, noised, or else noise.
    """

    requires: ClassVar[tuple[str, ...]] = (*PictureAttack.requires, "denoiser", "layer")
    inside: ClassVar[bool | None] = True

    def __init__(
        self,
        calls: int = 2,
        queries: int = 0,
        iterations: int = 150,
        pull: float = 1e-7,
        joint: bool | None = None,
        guidance: float | None = None,
    ) -> None:
        self.calls, self.queries, self.iterations, self.pull = calls, queries, iterations, pull
        self.joint, self.guidance = joint, guidance

    def _fit(self, view: View, knowledge: Knowledge) -> None:
        self.fits(cut_of(view))
        self.depth_ = cut_of(view) - 1
        self.own_: Tensor | None = None
        if knowledge.text and knowledge.has("text encoder") and self.queries:
            scale = usual(knowledge.model) if self.guidance is None else self.guidance
            self.own_ = drawn(knowledge, 10, min(24, len(knowledge.text)), scale)[1]

    def _reconstruct(self, view: View) -> Painted:  # type: ignore[override]
        latents, steps, reads, pictures = [], [], [], []
        draw = drawer(self.knowledge_)
        for run in runs(view):
            clock = Clock(self.knowledge_.model.scheduler, run.calls, run.times)
            latent, beliefs, read = self._invert(view, run, clock)
            latents.append(latent)
            steps.append(beliefs)
            reads.append(read)
            pictures.append(draw(latent[None])[0])
        name, notes = type(self).__name__, {"behind": f"{self.depth_} down blocks", **self._notes()}
        return Painted(name, view.observer, latents, steps, pictures, draw, self.cost_, notes, reads)

    def _invert(self, view: View, run: Run, clock: Clock) -> tuple[Tensor, Tensor, Tensor]:
        """(finished latent [C, h, w], beliefs and latents as read [S, C, h, w] at the last calls) of a run."""
        ends, sees_down = Ends(self.knowledge_, self.depth_, run), "down" in OBSERVERS[view.observer]
        last = range(max(0, run.calls - self.calls), run.calls)
        answers = {call: run.outputs[call] if sees_down else None for call in last}
        times = {call: self._time(run, clock, call) for call in last}
        option = self.guidance
        few = run.inputs[last[-1]][0].numel() < ends.channels * 4**self.depth_ * run.inputs[last[-1]][0, 0].numel()
        reads: dict[int, Tensor] = {}
        if self.iterations and len(last) > 1 and (few if self.joint is None else self.joint):
            start = usual(self.knowledge_.model) if option is None else option
            some = {call: answers[call] for call in last[-TOGETHER:]}
            reads, found, steps = jointly(ends, run, clock, some, times, start, self.iterations, self.pull)
            option = found if option is None else option
            self.cost_.candidates += steps
        reads = {call: self._search(ends, run, clock, call) if call not in reads else reads[call] for call in last}
        with torch.no_grad():
            outputs = {
                call: ends.noise(reads[call].expand(ends.rows, -1, -1, -1), times[call], answers[call]) for call in last
            }
        latents = {call: reads[call] / clock.scale(call) for call in last}
        noises, scale = self._guided(view, clock, latents, outputs, option)
        self.scale_ = scale
        beliefs = [clock.clean(call, noise, reads[call]) for call, noise in zip(last, noises, strict=True)]
        end = last[-1]
        scheduler = clock.fresh_at(end)
        latent = scheduler.step(noises[-1], clock.times[end], reads[end] / clock.scale(end), return_dict=False)[0]
        return latent[0], torch.cat([*beliefs[:-1], latent]), torch.cat([reads[call] for call in last])

    def _guided(
        self, view: View, clock: Clock, latents: dict[int, Tensor], outputs: dict[int, Tensor], option: float | None
    ) -> tuple[list[Tensor], float | None]:
        """The noises of the inverted calls after guidance, and its scale."""
        first = min(outputs)
        if first and option is None and len(outputs) > 1:  # the clock's steps begin at the first one inverted
            clock = clock.later(first)
        numbered = [outputs[call] for call in sorted(outputs)]
        renumbered = {call - first: latent for call, latent in latents.items()}
        return guided(numbered, renumbered, clock, view, self.knowledge_.model, option)

    def _search(self, ends: Ends, run: Run, clock: Clock, call: int) -> Tensor:
        """The latent [1, C, h, w] that the denoiser read at a call."""
        hidden, time = run.inputs[call], self._time(run, clock, call)
        size = [side * 2**self.depth_ for side in hidden.shape[-2:]]
        shape = (1, ends.channels, *size)
        start = self._decoded(ends, hidden, time, clock.level(call), shape) if self.queries else torch.zeros(shape)
        if not self.iterations:
            return start
        with torch.enable_grad():
            read = start.clone().requires_grad_(True)
            unit = hidden.square().mean()
            search = torch.optim.LBFGS(
                [read], max_iter=self.iterations, history_size=20, line_search_fn="strong_wolfe",
                tolerance_grad=1e-12, tolerance_change=1e-14,
            )  # fmt: skip

            def misfit() -> Tensor:
                search.zero_grad()
                made = ends.up(read.expand(ends.rows, -1, -1, -1), time)
                loss = (made - hidden).square().mean() / unit + self.pull * (read - start).square().mean()
                loss.backward()
                self.cost_.candidates += 1
                return loss

            search.step(misfit)
        return read.detach()

    @torch.inference_mode()
    def _decoded(self, ends: Ends, hidden: Tensor, time: Tensor, level: tuple[float, float], shape: tuple) -> Tensor:
        """The linear decoder's answer [1, C, h, w], fitted to own latents at this noise level and with this text."""
        signal, noise = level
        draw = torch.Generator().manual_seed(0)
        own = torch.randn(self.queries, *shape[1:], generator=draw)
        if self.own_ is not None and self.own_.shape[1:] == shape[1:]:
            # mixtures of own pictures: there are few of them
            parts = [self.own_[torch.randint(len(self.own_), (self.queries,), generator=draw)] for _ in range(2)]
            share = torch.rand(self.queries, 1, 1, 1, generator=draw)
            own = share * parts[0] + (1 - share) * parts[1]
        reads = signal * own + noise * torch.randn(own.shape, generator=draw)
        self.cost_.queries += len(reads)
        with torch.no_grad():
            made = torch.cat([ends.many(part, time) for part in reads.split(64)])
        block = 2**self.depth_
        x, y = _patches(made, REACH, 1, REACH // 2), _patches(reads, block, block, 0)
        middle, centre = x.mean(0), y.mean(0)
        x, y = (x - middle).double(), (y - centre).double()
        if len(x) > x.shape[1]:
            square = x.T @ x
            square.diagonal().add_(1e-4 * square.diagonal().mean())
            weight = torch.linalg.solve(square, x.T @ y)
        else:
            square = x @ x.T
            square.diagonal().add_(1e-4 * square.diagonal().mean())
            weight = x.T @ torch.linalg.solve(square, y)
        told = (_patches(hidden[-1:], REACH, 1, REACH // 2) - middle).double() @ weight + centre
        return torch.nn.functional.fold(told.float().T[None], shape[-2:], block, stride=block).clone()

    @staticmethod
    def _time(run: Run, clock: Clock, call: int) -> Tensor:
        return run.times.get(call, clock.times[call])

    def _notes(self) -> dict[str, Any]:
        scale = getattr(self, "scale_", None)
        return {"guidance": scale} if scale is not None else {}


def _patches(tensor: Tensor, size: int, stride: int, padding: int) -> Tensor:
    """The patches of [n, C, h, w] as rows [n * places, C * size * size]."""
    unfolded = torch.nn.functional.unfold(tensor, size, stride=stride, padding=padding)
    return unfolded.transpose(1, 2).flatten(0, 1)
