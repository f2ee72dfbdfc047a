"""The public scheduler of a run: its time steps, its noise levels, and where its deterministic steps lead."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import UnsupportedOption
from ...split.trajectory import DETERMINISTIC

MOST = 1000  # steps that a run may have been set to


class Clock:
    """A scheduler set to the steps of a run of so many calls; times: its time steps, as far as they crossed.

    Raises UnsupportedOption where the public scheduler has no such steps.
    """

    def __init__(self, scheduler: Any, calls: int, times: Mapping[int, Tensor] | None = None) -> None:
        self.calls = calls
        known = {call: float(t.flatten()[0]) for call, t in (times or {}).items()}
        self._public, self._steps = scheduler, _steps_of(scheduler, calls, known)
        self._set = self.fresh()
        self.begin = len(self._set.timesteps) - calls
        self.times = self._set.timesteps[self.begin :]
        self.prediction = self._set.config.get("prediction_type", "epsilon")
        self.flow = "Flow" in type(scheduler).__name__ or bool(self._set.config.get("use_flow_sigmas"))

    def fresh(self) -> Any:
        """A copy of the scheduler at its first step."""
        made = copy.deepcopy(self._public)
        made.set_timesteps(self._steps)
        begin = len(made.timesteps) - self.calls
        if begin and hasattr(made, "set_begin_index"):
            made.set_begin_index(begin)
        return made

    def level(self, call: int) -> tuple[float, float]:
        """(signal, noise): the denoiser reads signal * x0 + noise * eps at a call."""
        sigmas: Any = getattr(self._set, "sigmas", None)
        if self.flow:
            sigma = float(sigmas[self.begin + call])
            return 1 - sigma, sigma
        if sigmas is not None and len(sigmas) >= len(self._set.timesteps):
            square = float(sigmas[self.begin + call]) ** 2
            return (1 + square) ** -0.5, (square / (1 + square)) ** 0.5
        kept = float(self._set.alphas_cumprod[int(self.times[call])])
        return kept**0.5, (1 - kept) ** 0.5

    def scale(self, call: int) -> float:
        """By what the scheduler multiplies a latent before the denoiser reads it."""
        if not hasattr(self._set, "scale_model_input"):
            return 1.0
        return float(self.fresh_at(call).scale_model_input(torch.ones(1, dtype=torch.float64), self.times[call]))

    def fresh_at(self, call: int) -> Any:
        """A copy of the scheduler that stands before a call and remembers no noise."""
        made = self.fresh()
        if hasattr(made, "_step_index"):
            made._step_index = self.begin + call
        return made

    def later(self, call: int) -> Clock:
        """The same steps, counted from a call on."""
        made = copy.copy(self)
        made.calls, made.begin, made.times = self.calls - call, self.begin + call, self.times[call:]
        return made

    def clean(self, call: int, output: Tensor, read: Tensor) -> Tensor:
        """The picture's latent as one pair tells it: (x - noise * eps) / signal, by what the denoiser predicts."""
        signal, noise = self.level(call)
        output = first(output, read)
        if self.flow:
            return read - noise * output
        if self.prediction == "epsilon":
            return (read - noise * output) / signal
        if self.prediction == "v_prediction":
            return signal * read - noise * output
        if self.prediction == "sample":
            return output
        raise UnsupportedOption(f"What a denoiser of prediction_type={self.prediction!r} says is not known here.")

    def play(self, start: Tensor, outputs: Sequence[Tensor], seen: Mapping[int, Tensor] | None = None) -> list[Tensor]:
        """The latents after each call, the sampler's steps from `start` [P, C, h, w] on; bit for bit the library's.

        seen: latents at the beginning of calls that are known otherwise, and better. Raises UnsupportedOption for
        samplers that draw random numbers.
        """
        self.check()
        scheduler, latent, made = self.fresh(), start, []
        for call, output in enumerate(outputs):
            latent = (seen or {}).get(call, latent)
            latent = scheduler.step(first(output, latent), self.times[call], latent, return_dict=False)[0]
            made.append(latent)
        return made

    def check(self) -> None:
        """Raise UnsupportedOption unless the sampler draws no random numbers."""
        name = next((c.__name__ for c in type(self._public).__mro__ if c.__name__ in DETERMINISTIC), None)
        if name is None or "sde" in str(self._public.config.get("algorithm_type", "")):
            raise UnsupportedOption(f"{type(self._public).__name__} draws random numbers, so nobody can replay it.")


def first(output: Tensor, latent: Tensor) -> Tensor:
    """The noise without the learned variances that some denoisers put behind it."""
    return output.chunk(2, dim=1)[0] if output.shape[1] == 2 * latent.shape[1] else output


def _steps_of(scheduler: Any, calls: int, known: dict[int, float]) -> int:
    """The number of steps whose last `calls` time steps are the known ones."""
    trial = copy.deepcopy(scheduler)
    counts = [calls, calls - 1, (calls + 1) // 2, *range(calls + 1, MOST + 1)]
    for steps in counts if known else counts[:3]:
        if steps < 1:
            continue
        try:
            trial.set_timesteps(steps)
        except (ValueError, TypeError, IndexError):
            continue
        times = [float(t) for t in trial.timesteps]
        if len(times) < calls or (not known and len(times) != calls):
            continue
        last = times[len(times) - calls :]
        if all(abs(last[call] - t) < 1e-3 for call, t in known.items() if call < calls):
            return steps
    raise UnsupportedOption(f"The public scheduler makes no run of {calls} calls at these time steps.")
