"""The cut at the denoiser: a module that looks like the pipeline's U-Net or transformer and forwards every call."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FrameError, UnsupportedModel, UnsupportedOption
from .far import Asked, Far, alike
from .foretold import Foresight, copied
from .picture_host import combined
from .skipping import Past, Skip, asked_of
from .trajectory import Watched, same_noise, state_of

Wanted = list[tuple[int | None, ...]]


class RemoteDenoiser(nn.Module):
    """Stands where `pipe.unet` or `pipe.transformer` stood; its config stays local, its weights are elsewhere."""

    far: Far
    skip: Skip

    def __init__(self, original: Any, far: Far, pipe: Any) -> None:
        super().__init__()
        self.far, self.config = far, original.config
        self._dtype, self._names = original.dtype, list(inspect.signature(type(original).forward).parameters)[1:]
        self._input = self._names[0]
        self.guidance, self.skip = "local", None
        self._pipe = [pipe]  # in a list: a pipeline is no sub-module
        size = original.config.get("projection_class_embeddings_input_dim")
        if size:  # SDXL pipelines read this much of the embedding that is elsewhere
            self.add_embedding = SimpleNamespace(linear_1=SimpleNamespace(in_features=size))
        for name, value in vars(original).items():  # pipelines read sizes off it: in_channels, inner_dim, num_heads
            if not name.startswith("_") and name != "training" and isinstance(value, (int, float, str, tuple)):
                setattr(self, name, value)
        self.restart()

    dtype = property(lambda self: self._dtype)
    device = property(lambda self: torch.device("cpu"))

    def cache_context(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Pipelines name their guidance branches for caches that hook a denoiser; there is none here."""
        return contextlib.nullcontext()

    def restart(self) -> None:
        """A new run begins: nothing is known of the host's latent."""
        self._ours: Tensor | None = None  # the guided noise that both sides have since the last call
        self._latent: Tensor | None = None  # and the latent of that call, as the pipeline had it
        self._time: Any = None  # and its time step
        self._start, self._lost = 0, False
        self._foresight, self._past = Foresight(self._pipe[0].surprises()), Past()
        self._before: object = None  # what the last call said besides its latent and time

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the original's: (noise,), or an output object whose `sample` it is."""
        call = {**dict(zip(self._names, args, strict=False)), **kwargs}
        as_object = call.pop("return_dict", True)
        call = {name: value for name, value in call.items() if value is not None}
        sample = call[self._input]
        if not isinstance(sample, Tensor):
            raise UnsupportedModel(
                f"This denoiser takes a {type(sample).__name__} of latents; only one tensor can cross."
            )
        guide = self._guide(sample)
        wanted = self._wanted(sample, guide)
        follows = self._follows()
        if self.skip is not None:
            said = guide, {k: v for k, v in call.items() if k not in (self._input, "timestep")}
            if not alike(said, self._before):  # a noise of other texts, or guided otherwise, is no guide
                self._past.forget()
            self._before = said
        noise = (self._in_lockstep if follows else self._alone)(call, sample, guide, wanted)
        if guide and guide["where"] == "host":
            noise = torch.cat([noise, noise])  # without + s * (with - without) is the guided noise again
        return SimpleNamespace(sample=noise) if as_object else (noise,)

    def _guide(self, sample: Tensor) -> dict[str, Any] | None:
        """The pipeline's guidance scale, where it guides by two equal halves and by the plain formula."""
        scale = self._pipe[0].plain_guidance()
        return {"scale": scale, "where": self.guidance} if scale is not None and _halves_equal(sample) else None

    def _wanted(self, sample: Tensor, guide: dict | None) -> Wanted:
        """The noise's shape: the sample's with the denoiser's own channels; guided, it is for half the batch."""
        rows = len(sample) // 2 if guide and guide["where"] == "host" else len(sample)
        if sample.dim() == 3:  # packed latents [B, L, C] keep their width
            return [(rows, *sample.shape[1:])]
        channels = getattr(self, "out_channels", None) or self.config.get("out_channels") or sample.shape[1]
        return [(rows, int(channels), *sample.shape[2:])]

    def _follows(self) -> bool:
        """Whether the host can hold the pipeline's latent: since its last step with our noise, one step or none."""
        watched = self._pipe[0].scheduler
        if self.far.policy != "lockstep" or not isinstance(watched, Watched) or self._lost:
            return False
        if self._latent is not None and watched.steps:
            self._lost = watched.steps > 1 or not same_noise(watched.taken, self._ours, self._latent)
        if self._lost:
            warnings.warn(
                "This pipeline does more with the noise than the host can follow: its latents go up at every step.",
                stacklevel=4,
            )
        return not self._lost

    def _alone(self, call: dict, sample: Tensor, guide: dict | None, wanted: Wanted) -> Tensor:
        """The call by itself: the sample goes up, the noise comes down; or it is skipped, and nothing crosses."""
        position = self._came(call, calm=False)
        if self._past.skips(position, asked_of(self.skip, position, self._calls()), partial(combined, guide=guide)):
            self.far.skip()
            return self._past.guess(position)
        how: dict[str, list] = {f"call.{self._input}": ["twice" if _halves_equal(sample) else "up"]}
        tree: dict[str, Any] = {"alone": True} if self.far.policy == "lockstep" else {}
        tree |= {"guide": guide} if guide and guide["where"] == "host" else {}
        noise = self.far.ask(lambda fresh: (0, {**tree, "call": call}, how), sample.dtype, wanted)[0]
        self._past.add(position, noise)
        return noise

    def _came(self, call: dict, calm: bool) -> int:
        """Which call of the run this is, from 0; -1 when that is not known."""
        times = self._pipe[0].scheduler.timesteps
        self._foresight.came(times, call.get("timestep"), calm)
        return self._foresight.position(times)

    def _calls(self) -> int:
        """How many calls this run has; 0 when that is not known."""
        return self._foresight.calls(self._pipe[0].scheduler.timesteps, getattr(self._pipe[0], "_num_timesteps", None))

    def _in_lockstep(self, call: dict, sample: Tensor, guide: dict | None, wanted: Wanted) -> Tensor:
        watched = self._pipe[0].scheduler
        repeat = 2 if guide or _halves_equal(sample) else 1
        raw = watched.raw if watched.raw is not None else sample
        latent = raw[: len(raw) // repeat]
        scaled, beside = watched.scaled is not None, None
        model_input = watched.scaled if scaled else sample
        if model_input.shape[1] < sample.shape[1]:
            beside = sample[:, model_input.shape[1] :]
            model_input = torch.cat([model_input, beside], dim=1)
        if not torch.equal(model_input, sample):
            raise UnsupportedOption(
                "This pipeline does not give its denoiser the scheduler's latent; use mode='per_step'."
            )
        self._start += bool(watched.steps)
        here = watched.made if watched.steps else self._latent
        last, self._time = self._time, call.get("timestep")
        common = here is not None and torch.equal(here, latent)  # both sides have it, unless the host forgot
        foresight, stepped = self._foresight, bool(watched.steps)
        position = self._came(call, calm=common and stepped)
        shape = sample.new_zeros(()).expand(sample.shape)  # of the latent's call, shape and dtype cross
        rest = {"guide": guide} if guide else {}
        rest |= {"beside": beside} if beside is not None else {}
        how: dict[str, list] = {f"call.{self._input}": ["latent", repeat, scaled]}
        with_latent = how | {"latent": ["raw" if common and stepped else "up"]}  # what was rounded once is not again

        def later(at: Any, time: Any, last: Any, number: int, call: dict = call, rest: dict = rest) -> dict[str, Any]:
            """The tree of a call whose latent the host makes."""
            tree = {"at": torch.as_tensor(at)} if at is not None and not _alike(at, last) else {}
            skip = asked_of(self.skip, number, self._calls())
            tree |= {"skip": skip} if skip and at is not None else {}
            timed = {} if time is None else {"timestep": time}
            return {**tree, **rest, "call": {**call, self._input: shape, **timed}}

        def build(fresh: bool) -> Asked:
            if fresh or here is None:
                self._past.forget()
                state = {"sync": state_of(watched), "latent": latent}
                return self._start, {**state, **rest, "call": {**call, self._input: shape}}, with_latent
            tree = later(watched.at if stepped else None, self._time, last, position)
            if not common or len(self._past.known) < 2:
                tree.pop("skip", None)
            return (self._start, tree, how) if common else (self._start, {**tree, "latent": latent}, with_latent)

        def ahead(asked: Asked) -> list[Asked]:
            found, before, now = [], self._time, (copied(call), copied(rest))
            for n, (at, time) in enumerate(foresight.next(watched.timesteps, self._time, self._calls()), 1):
                tree = later(at, time, before, position + n, *now)
                if len(self._past.known) + n < 2:
                    tree.pop("skip", None)
                found.append((self._start + n, tree, how))
                before = time
            return found

        misses = self.far.misses
        answered = self.far.ask(build, sample.dtype, wanted, ahead)
        if self.far.misses > misses:
            foresight.missed()
        noise = answered[0] if answered else self._guessed()
        if answered:
            self._past.add(self._start, noise)
        self._ours = combined(noise, guide)
        theirs = self.far.theirs("latent", latent)
        if not torch.equal(theirs, latent):
            watched.theirs = (latent, theirs)
        self._latent, watched.steps = latent, 0
        return noise

    def _guessed(self) -> Tensor:
        if not self._past.skips(self._start, True):
            raise FrameError("The host skipped a call whose noise nobody can guess.")
        return self._past.guess(self._start)


def _alike(at: Any, last: Any) -> bool:
    """Whether the scheduler stepped at the time step of the last call."""
    at = torch.as_tensor(at)
    return isinstance(last, Tensor) and last.dtype == at.dtype and last.shape == at.shape and torch.equal(last, at)


def _halves_equal(sample: Tensor) -> bool:
    half = len(sample) // 2
    return len(sample) % 2 == 0 and half > 0 and torch.equal(sample[:half], sample[half:])
