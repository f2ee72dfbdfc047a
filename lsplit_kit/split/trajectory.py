"""Lockstep: both sides hold the same latent, because both step the same scheduler on the same de-quantised noise.

The local pipeline's own scheduler is watched, not replaced: what it was given and what it made say whether the host,
which saw the same noise, holds the same latent. Where it does not (inpainting, a callback that edits, another guidance
formula), the latent or the whole state goes up again, and the ledger shows it. After arXiv 2310.14651, section IV.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from ..errors import FrameError, LimitExceeded, UnsupportedOption

# Given the noise, these compute the next latent without drawing a random number.
DETERMINISTIC = (
    "DDIMScheduler", "DDIMInverseScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
    "LMSDiscreteScheduler", "PNDMScheduler", "FlowMatchEulerDiscreteScheduler",
)  # fmt: skip
_MOST_STEPS, _LONGEST, _MOST_ORDER = 10_000, 100_000, 4
_MOST_VALUES = 1 << 20  # of the latents of a run, and of all that a scheduler remembers of it
_NAME = re.compile(r"[A-Za-z0-9_+.-]{0,64}")


class Watched:
    """Mixed into a scheduler: notes the raw latent it scales, and what its last step took and gave.

    A latent that went up through a lossy codec is another one at the host. The step after it begins from the host's, so
    that both sides make the same one of it; the pipeline's own tensor stays as it is.
    """

    raw: Tensor | None = None  # the input of scale_model_input since the last step
    scaled: Tensor | None = None
    taken: Tensor | None = None  # the noise of the last step
    made: Tensor | None = None  # the latent that the last step gave
    at: Any = None  # its time step
    steps = 0  # since the denoiser was last called
    theirs: tuple[Tensor, Tensor] | None = None  # (the latent that went up, the same as the host has it)

    def watched_scale_model_input(self, sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the scheduler's own `scale_model_input`; some have none."""
        self.raw = sample
        self.scaled = super().scale_model_input(sample, *args, **kwargs)  # type: ignore[misc]
        return self.scaled

    def watched_step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the scheduler's own `step`; UnsupportedOption when the step is told to draw random numbers."""
        if kwargs.get("eta") or kwargs.get("s_churn"):
            raise UnsupportedOption("Lockstep needs a deterministic step: leave eta at 0, or use mode='per_step'.")
        ours, theirs = self.theirs or (sample, sample)
        same = torch.equal(sample, ours)
        out = super().step(model_output, timestep, theirs if same else sample, *args, **kwargs)  # type: ignore[misc]
        self.taken, self.at = model_output, timestep
        # None: the step was not made from the latent of the call, so the host cannot make it; the state goes up again
        self.made = (out[0] if isinstance(out, tuple) else out.prev_sample) if same else None
        self.steps, self.raw, self.scaled, self.theirs = self.steps + 1, None, None, None
        return out


_OWN = set(vars(Watched)) | {"_internal_dict"}


def watch(scheduler: Any) -> Any:
    """Mix `Watched` into a scheduler, in place; UnsupportedOption for one that draws random numbers."""
    cls = type(scheduler)
    if isinstance(scheduler, Watched):
        return scheduler
    if cls.__name__ not in DETERMINISTIC or _draws(scheduler.config):
        raise UnsupportedOption(
            f"{cls.__name__} draws random numbers (or is unknown), so two sides cannot step it alike; use "
            "mode='per_step', or a deterministic scheduler such as DDIM, DPM-Solver++, Euler or flow-match Euler."
        )
    methods = {
        name: _like(getattr(cls, name), getattr(Watched, f"watched_{name}"))
        for name in ("scale_model_input", "step") if hasattr(cls, name)
    }  # fmt: skip
    scheduler.__class__ = type(cls.__name__, (Watched, cls), {"__module__": cls.__module__, **methods})
    return scheduler


def _like(own: Any, watching: Any) -> Any:
    """`watching` with the signature of `own`: pipelines pass eta and generator only where they find them there."""

    @functools.wraps(own)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return watching(self, *args, **kwargs)

    return method


def state_of(scheduler: Any) -> dict[str, Any]:
    """What a fresh scheduler of the same class needs to go on from here: its class, and what is not as there.

    config: arguments that are not the class's defaults; changed: attributes that a fresh one has otherwise.
    """
    plain: Any = next(c for c in type(scheduler).__mro__ if c.__name__ in DETERMINISTIC and c.__module__ != __name__
                 and Watched not in c.__mro__)  # fmt: skip
    known = parameters_of(plain)  # a config may carry what other classes left in it
    config = {k: v for k, v in scheduler.config.items() if k in known and not _same(v, known[k])}
    fresh = vars(plain.from_config(config))
    changed = {
        name: _plain(value) for name, value in vars(scheduler).items()
        if name not in _OWN and name in fresh and not _same(value, fresh[name])
    }  # fmt: skip
    return {"class": plain.__name__, "config": config, "changed": changed}


class Trajectory:
    """The host's scheduler and latent [B, C, h, w] (or packed [B, L, C]) of one run."""

    def __init__(self, state: object, latent: Tensor) -> None:
        if not isinstance(state, dict) or set(state) != {"class", "config", "changed"}:
            raise FrameError("The scheduler's state is not readable.")
        if state["class"] not in DETERMINISTIC:
            raise FrameError("This host steps no such scheduler; use mode='per_step'.")
        cls, config, changed = getattr(diffusers, state["class"]), state["config"], state["changed"]
        if type(config) is not dict or type(changed) is not dict or not config.keys() <= parameters_of(cls).keys():
            raise FrameError("The scheduler's configuration is not one of its class.")
        if _draws(config):
            raise FrameError("This host steps no scheduler that draws random numbers; use mode='per_step'.")
        if any(type(v) is int and v > _MOST_ORDER for k, v in config.items() if k.endswith("order")):
            raise LimitExceeded(f"A scheduler's order is at most {_MOST_ORDER}.")
        if not all(_small(value) for value in (*config.values(), *changed.values())):
            raise LimitExceeded(
                f"A scheduler's state has numbers up to {_LONGEST:,}, lists of {_MOST_STEPS:,} and short names."
            )
        if latent.dim() < 3 or not 0 < latent.numel() <= _MOST_VALUES or _values(changed) > 8 * _MOST_VALUES:
            raise LimitExceeded(f"A run's latents have at most {_MOST_VALUES:,} values.")
        try:
            self.scheduler = cls.from_config(config)
        except (ValueError, TypeError, NotImplementedError, AttributeError):
            raise FrameError("The scheduler cannot be made from this configuration.") from None
        own = vars(self.scheduler)
        if not set(changed) <= set(own) - _OWN:
            raise FrameError("The scheduler has no such state.")
        for name, value in changed.items():
            # diffusers keeps some tables as numpy arrays, others as tensors
            setattr(self.scheduler, name, value.numpy() if isinstance(own[name], np.ndarray) else value)
        self.latent = latent
        self.noise: Tensor | None = None
        self.at: object = None  # the time step of the last call

    def advance(self, at: object) -> None:
        """Step the latent with the noise of the last call; at: the time step, None for that of the last call."""
        if self.noise is None:
            raise FrameError("There is no noise to step with yet.")
        noise = _first(self.noise, self.latent)
        if noise.shape != self.latent.shape:  # the step would broadcast them
            raise FrameError(f"The noise {tuple(noise.shape)} is not one of the latent {tuple(self.latent.shape)}.")
        self.latent = self.scheduler.step(noise, self.at if at is None else at, self.latent, return_dict=False)[0]
        self.noise = None

    def size(self) -> int:
        """Bytes that the run keeps."""
        noise = self.noise.nbytes if self.noise is not None else 0
        return self.latent.nbytes + noise + 4 * _values(vars(self.scheduler))

    def sample(self, repeat: int, scaled: bool, at: Any, beside: Tensor | None) -> Tensor:
        """What the pipeline would give its denoiser: the latent repeated, scaled, with extra channels beside it."""
        out = torch.cat([self.latent] * repeat)
        out = self.scheduler.scale_model_input(out, at) if scaled else out
        return out if beside is None else torch.cat([out, beside], dim=1)


def parameters_of(cls: Any) -> dict[str, Any]:
    """The arguments that a scheduler's configuration may have, and their defaults."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "self"}


def _first(noise: Tensor, latent: Tensor) -> Tensor:
    """The noise without the learned variances that some denoisers put behind it."""
    return noise.chunk(2, dim=1)[0] if noise.dim() == 4 and noise.shape[1] == 2 * latent.shape[1] else noise


def same_noise(taken: Tensor | None, ours: Tensor | None, latent: Tensor) -> bool:
    """Whether the pipeline stepped with just the noise that the host has."""
    return taken is not None and ours is not None and torch.equal(taken, _first(ours, latent))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (Tensor, np.ndarray)) or isinstance(b, (Tensor, np.ndarray)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


def _draws(config: Any) -> bool:
    """Whether a configuration makes a scheduler's step draw random numbers."""
    return "sde" in str(config.get("algorithm_type", "")) or bool(config.get("stochastic_sampling"))


def _values(part: object) -> int:
    """How many numbers the tensors in a scheduler's attribute, list or dict have together."""
    if isinstance(part, (Tensor, np.ndarray)):
        return part.numel() if isinstance(part, Tensor) else part.size
    if isinstance(part, (list, tuple)):
        return sum(map(_values, part))
    return sum(map(_values, part.values())) if isinstance(part, dict) else 0


def _small(value: object) -> bool:
    if isinstance(value, Tensor):  # a table of the steps, or a noise of the run
        return value.numel() <= (_MOST_STEPS if value.dim() < 2 else _MOST_VALUES)
    if isinstance(value, (list, tuple)):
        tensors = sum(isinstance(v, Tensor) for v in value)
        return tensors <= _MOST_ORDER and len(value) <= _MOST_STEPS and all(map(_small, value))
    if isinstance(value, dict):
        return len(value) <= 64 and all(map(_small, value.values()))
    if isinstance(value, str):  # it may end in the host's log
        return _NAME.fullmatch(value) is not None
    return not isinstance(value, int) or abs(value) <= _LONGEST
