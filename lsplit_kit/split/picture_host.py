"""The far half of a picture's session: a denoiser, or its middle blocks, that answers calls and may keep the latent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CacheMiss, FrameError, LimitExceeded
from ..quantization import Calibration, Codec, Encoded
from ..wire.message import MODES, HostInfo, Open, PictureStep
from .form import MAX_TENSORS, MAX_VALUES, Latent, Unpacker, leaves
from .picture_limits import MOST_VALUES, check_call
from .pool import Pool
from .sessions import Remembered, Sessions
from .skipping import Past
from .telling import tensors_of
from .tensor_bytes import laid_out, layout_of
from .trajectory import Trajectory

PARTS = {"call", "streams", "sync", "latent", "at", "beside", "guide", "alone", "skip", "past"}
Run = Callable[[dict[str, Any], dict[str, Tensor]], list[Tensor]]


class Picture(Remembered):
    """What a host remembers of one picture: tensors that came once, and in lockstep the latent and the scheduler."""

    def __init__(self, terms: Open, given: Mapping[str, Calibration]) -> None:
        super().__init__(terms, given)
        self.forms = Unpacker(self.up)
        self.coders: list[Codec] = []  # of the outputs, each with its own past
        self.run: Trajectory | None = None
        self.have = 0
        self.past = Past()
        self.shapes: list[list] = []

    def size(self) -> int:
        """Bytes of the tensors that came once or codecs predict from, of the run, its last noises, the last answer."""
        run = (self.run.size() if self.run is not None else 0) + self.past.size()
        kept = sum(tensor.nbytes for tensor in self.forms.kept) + sum(coder.kept for coder in self.coders)
        return kept + run + len(self.last[2] or b"")


class PictureBody(Sessions[Picture, PictureStep]):
    """Answers the calls of one denoiser; `run(arguments, streams)` computes its outputs."""

    policies, message, predicts = MODES, PictureStep, True

    def __init__(
        self,
        run: Run,
        arguments: frozenset[str],
        info: HostInfo,
        pool: Pool | None = None,
        module: nn.Module | None = None,
    ) -> None:
        super().__init__(info, pool)
        self.run, self.arguments, self.module = run, arguments, module

    def fork(self) -> PictureBody:
        """The same body with its own sessions, for one more connection; compute stays one at a time."""
        return PictureBody(self.run, self.arguments, self.info, self.pool, self.module)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors of the denoiser, or of what it holds of one."""
        return tensors_of(self.module, "denoiser.") if self.module is not None else iter(())

    def _begin(self, terms: Open) -> Picture:
        return Picture(terms, self.calibrations)

    def _answer(self, s: Picture, step: PictureStep) -> bytes:
        """A byte (how long the shapes' text is; 0: as last time), that text, the payloads; nothing when skipped."""
        before = s.forms.kept, s.forms.last
        try:
            answer = self._answered(s, step)
            self.pool.check(s.size() + len(answer))
            return answer
        except BaseException:
            s.forms.kept, s.forms.last = before  # a refused call leaves no trace
            raise

    def _answered(self, s: Picture, step: PictureStep) -> bytes:
        with self.coding():
            tree = s.forms.unpack(step.form, step.payload)
        self.pool.reserve(s, s.size())  # what came is counted now: a session that never fits is refused, not forgotten
        if type(tree) is not dict or not set(tree) <= PARTS:
            raise FrameError("The form of this call is not readable.")
        call, guide = tree.get("call"), _guide(tree.get("guide"))
        if type(call) is not dict or not set(call) <= self.arguments:
            raise FrameError(f"The denoiser's arguments are {', '.join(sorted(self.arguments))}.")
        resumed = self._resumed(s, tree["past"]) if "past" in tree else None
        try:
            with self.pool.computing, torch.inference_mode():
                if s.policy == "lockstep":
                    self._advance(s, step.start, tree)
                if "skip" in tree:
                    if s.run is None:
                        raise FrameError("Calls are skipped in a run in lockstep only.")
                    guided = partial(combined, guide=guide)
                    if s.past.skips(step.start, tree["skip"], guided) and "latent" not in tree:
                        self._note(s, step.start, call, guide, s.past.guess(step.start))
                        return b""
                out = self._compute(s, call, tree)
                if guide and guide["where"] == "host":
                    out[0] = combine(out[0], guide["scale"])
                most = sum(s.down.payload_bytes(tuple(tensor.shape)) for tensor in out)
                if most > self.info.max_frame - 4096:
                    raise LimitExceeded(f"The answer takes {most:,} bytes, a frame {self.info.max_frame:,}.")
                s.coders = s.coders if resumed is None else resumed
                s.coders += [s.down.coder() for _ in out[len(s.coders) :]]
                with self.coding():
                    encoded = [coder.encode(tensor) for coder, tensor in zip(s.coders, out, strict=False)]
                if s.run is not None:  # step on what the local side will have, not on what was computed
                    noise = laid_out(s.coders[0].again(encoded[0], out[0].dtype), layout_of(out[0]))
                    s.past.add(step.start, noise)
                    self._note(s, step.start, call, guide, noise)
        except Exception:
            s.run = None  # a run that stopped half-way is none: its client sends latent and scheduler again
            raise
        shapes = [[layout_of(tensor), *e.shape] for tensor, e in zip(out, encoded, strict=True)]
        said = b"" if shapes == s.shapes else json.dumps(shapes, separators=(",", ":")).encode()
        s.shapes, s.have = shapes, step.start
        return b"".join((bytes([len(said)]), said, *(e.payload for e in encoded)))

    def _resumed(self, s: Picture, past: object) -> list[Codec]:
        """Coders that go on where those of a lost session ended, one for each list of tensors."""
        if type(past) is not list or len(past) > MAX_TENSORS or not all(type(part) is list for part in past):
            raise FrameError("past is a list of tensors for each output.")
        every = [tensor for part in past for tensor in part]
        if not all(
            isinstance(tensor, Tensor) and tensor.is_contiguous() for tensor in every
        ):  # no shape without values
            raise FrameError("past is a list of tensors for each output.")
        if sum(tensor.numel() for tensor in every) > MOST_VALUES:  # one that was sent may be named many times
            raise LimitExceeded(f"The tensors that a codec goes on from have at most {MOST_VALUES:,} values.")
        coders = [s.down.coder() for _ in past]
        for coder, part in zip(coders, past, strict=True):
            coder.resume(part)
        return coders

    def _note(self, s: Picture, start: int, call: dict[str, Any], guide: dict[str, Any] | None, noise: Tensor) -> None:
        """What the scheduler will step with, and where it is."""
        assert s.run is not None
        s.run.at, s.have = call.get("timestep"), start
        s.run.noise = combined(noise, guide)

    def _advance(self, s: Picture, start: int, tree: dict[str, Any]) -> None:
        latent = tree.get("latent")
        if tree.get("alone"):  # the pipeline does with the noise what a host cannot follow
            s.run = None
            return
        if "sync" in tree:
            s.past.forget()
            s.run = Trajectory(tree["sync"], _tensor(latent))
            return
        if s.run is None or start not in (s.have, s.have + 1):
            raise CacheMiss(f"The call is number {start} of its run, this host has {s.have}.", have=s.have)
        if start == s.have + 1:
            s.run.advance(tree.get("at"))
        if latent is not None:
            s.run.latent = _tensor(latent)

    def _compute(self, s: Picture, call: dict[str, Any], tree: dict[str, Any]) -> list[Tensor]:
        def remembered(leaf: Any) -> Any:
            if not isinstance(leaf, Latent):
                return leaf
            if s.run is None:
                raise CacheMiss("This host has no latent of this run.", have=0)
            return s.run.sample(leaf.repeat, leaf.scaled, call.get("timestep"), tree.get("beside"))

        streams = tree.get("streams", {})
        if type(streams) is not dict or not all(isinstance(stream, Tensor) for stream in streams.values()):
            raise FrameError("Streams are tensors by name.")
        whole = leaves(call, remembered)
        check_call(whole, streams)
        return self.run(whole, streams)


def combine(noise: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance as the pipelines write it: without + scale * (with - without); [2B, ...] -> [B, ...]."""
    without, conditioned = noise.chunk(2)
    return without + scale * (conditioned - without)


def combined(noise: Tensor, guide: dict[str, Any] | None) -> Tensor:
    """The noise that the pipeline steps with: guided here, unless it is already or is not guided."""
    return combine(noise, guide["scale"]) if guide and guide["where"] == "local" else noise


def _guide(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    good = type(value) is dict and set(value) == {"scale", "where"} and type(value["scale"]) in (int, float)
    if not good or value["where"] not in ("host", "local"):
        raise FrameError("guide is a scale and where it is applied.")
    return value


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise FrameError("A run begins with its latent.")
    return value


def read_answer(raw: bytes, shapes: list[list], down: Codec, coders: list[Codec]) -> tuple[list[Encoded], list[list]]:
    """(outputs as they crossed, their layouts and shapes) from an answer; raises FrameError.

    coders: those of the outputs so far in this session; more are added where there are more outputs.
    """
    size = raw[0] if raw else 0
    try:
        shapes = json.loads(raw[1 : 1 + size]) if size else shapes
    except (ValueError, RecursionError):
        shapes = []
    if not raw or type(shapes) is not list or not shapes or not all(map(_readable, shapes)):
        raise FrameError("The host's answer has no readable shapes.")
    at, out = 1 + size, []
    coders += [down.coder() for _ in shapes[len(coders) :]]
    for coder, shape in zip(coders, (tuple(shape) for _, *shape in shapes), strict=False):
        stop = at + coder.length(raw, at, shape)
        out.append(Encoded(down.spec, shape, raw[at:stop]))
        at = stop
    if at != len(raw):
        raise FrameError(f"The host's answer has {len(raw):,} bytes, its shapes need {at:,}.")
    return out, shapes


def _readable(entry: object) -> bool:
    """Whether this is a layout and one to six sizes of a tensor that may cross."""
    if type(entry) is not list or not 2 <= len(entry) <= 7 or type(entry[0]) is not str:
        return False
    sizes = entry[1:]
    return all(type(n) is int and 0 <= n <= MAX_VALUES for n in sizes) and (
        math.prod(max(n, 1) for n in sizes) <= MAX_VALUES
    )
