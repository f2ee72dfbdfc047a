"""`split()` for pictures: the library's own pipeline, whose denoiser, or the middle of it, is elsewhere."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch

from ..card import Card
from ..errors import PlanError, UnsupportedModel, UnsupportedOption
from ..wire.link import Link, named
from .denoiser import RemoteDenoiser
from .dit import body_dit, count_blocks, local_dit
from .far import Far
from .fingerprint import digests, fingerprint_of_tensors
from .picture_host import PictureBody
from .sessions import describe
from .skipping import Skip
from .trajectory import Watched, watch
from .unet import body_unet, check_blocks, depth_of, local_unet, signature_of

# These guide by without + scale * (with - without), unless one of the options below says otherwise.
PLAIN_GUIDANCE = (
    "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline",
    "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "PixArtAlphaPipeline", "PixArtSigmaPipeline",
)  # fmt: skip
OTHER_GUIDANCE = ("guidance_rescale", "skip_guidance_layers", "pag_scale", "true_cfg_scale")


class SplitPipeline(Card):
    """What a split pipeline has beside its library class: the far end, a session a picture, and a readable repr."""

    remote: Far
    cut: str
    scheduler: Any
    components: dict[str, Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's pipeline."""
        bound = inspect.signature(super().__call__).bind(*args, **kwargs)  # type: ignore[misc]
        bound.apply_defaults()
        self._asked = bound.arguments
        denoiser = getattr(self, part_of(self))
        if self.remote.policy == "lockstep":
            if not isinstance(self.scheduler, Watched):  # somebody's own, which stays as it is
                self.scheduler = watch(copy.deepcopy(self.scheduler))
            watched = self.scheduler
            watched.raw = watched.scaled = watched.taken = watched.made = watched.theirs = None
            watched.steps = 0
        if isinstance(denoiser, RemoteDenoiser):
            denoiser.restart()
        try:
            made = super().__call__(*args, **kwargs)  # type: ignore[misc]
            if not self.remote.asked:
                raise UnsupportedModel(
                    f"{type(self).__name__} made its picture without calling this denoiser; nothing crossed."
                )
            return made
        finally:
            self.remote.end()

    def surprises(self) -> bool:
        """Whether the picture under way may do something between two steps that the local side cannot foretell."""
        asked = getattr(self, "_asked", {})
        between = any(asked.get(name) is not None for name in ("callback_on_step_end", "callback", "mask_image"))
        return between or not guides_plainly(self) or any(asked.get(name) for name in OTHER_GUIDANCE)

    def plain_guidance(self) -> float | None:
        """The guidance scale of the picture under way, where the host can apply it just as the pipeline does."""
        asked = getattr(self, "_asked", {})
        if not guides_plainly(self) or any(asked.get(name) for name in OTHER_GUIDANCE):
            return None
        scale = getattr(self, "_guidance_scale", None)
        scale = asked.get("guidance_scale") if scale is None else scale
        return float(scale) if scale is not None and scale > 1 else None

    @property
    def link(self) -> Link:
        """The link to the body."""
        return self.remote.link

    def close(self) -> None:
        """End the link to the body; the pipeline cannot run afterwards."""
        self.link.close()

    def __enter__(self) -> SplitPipeline:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's, but the number format is the host's too: UnsupportedOption for another one."""
        dtype = kwargs.get("dtype") or next((a for a in args if isinstance(a, torch.dtype)), None)
        if dtype not in (None, getattr(self, part_of(self)).dtype):
            raise UnsupportedOption(f"This pipeline is split in another number format; load both sides in {dtype}.")
        return super().to(*args, **kwargs)  # type: ignore[misc]

    def save_pretrained(self, *args: Any, **options: Any) -> None:
        """UnsupportedOption, always: the denoiser is elsewhere, and its place in the folder would be empty."""
        raise UnsupportedOption("A split pipeline has no denoiser to save; save the pipeline it was made from.")

    push_to_hub = save_pretrained

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UnsupportedOption(
            "A split pipeline holds a link and cannot be copied or pickled; split the pipeline it was made from again."
        )

    def _card(self) -> tuple[str, dict[str, object]]:
        return f"{type(self).__name__} split at {self.cut}", {
            "local": ", ".join(sorted(n for n, c in self.components.items() if c is not None and n != part_of(self))),
            "body": f"parts {self.link.info.start} to {self.link.info.stop - 1} of {self.link.info.model}",
            "link": named(self.link),
            "up": self.remote.up.spec,
            "down": self.remote.down.spec,
            "mode": self.remote.policy,
        }


def guides_plainly(pipe: Any) -> bool:
    """Whether a pipeline guides by the plain formula."""
    return any(cls.__name__ in PLAIN_GUIDANCE for cls in type(pipe).__mro__)


def guided_at(pipe: Any, mode: str, guidance: str | None) -> str:
    """ "host" or "local": where guidance is applied, when it may have been left open."""
    return guidance or ("host" if mode == "lockstep" and guides_plainly(pipe) else "local")


def part_of(pipe: Any) -> str:
    """ "unet" or "transformer", whichever this pipeline denoises with; UnsupportedModel says why there is none."""
    if type(pipe).__name__.endswith("CombinedPipeline"):
        raise UnsupportedModel(f"{type(pipe).__name__} holds other pipelines; split the one that denoises.")
    for name in ("unet", "transformer"):
        if getattr(pipe, name, None) is not None:
            return name
    raise UnsupportedModel(f"{type(pipe).__name__} has neither a unet nor a transformer to send away.")


def picture_cut(denoiser: Any, at: str, head: int, tail: int) -> tuple[int, int]:
    """The parts [start, stop) of a denoiser that go away: input, blocks in the order of computing, output."""
    inside = 2 * depth_of(denoiser) + 1 if hasattr(denoiser, "down_blocks") else None
    if at == "denoiser":
        blocks = inside if inside is not None else _blocks_or_none(denoiser)
        return 0, blocks + 2
    if inside is not None:
        k = check_blocks(head, tail, depth_of(denoiser))
        return 1 + k, 1 + inside - k
    blocks = count_blocks(denoiser)
    if min(head, tail) < 0 or head + tail >= blocks:
        raise PlanError(f"head={head} and tail={tail} leave no body: this denoiser has {blocks} blocks.")
    return 1 + head, 1 + blocks - tail


def picture_body(denoiser: Any, cut: tuple[int, int], name: str) -> PictureBody:
    """The body that serves parts [start, stop) of a denoiser, sharing its tensors."""
    start, stop = cut
    whole = cut == picture_cut(denoiser, "denoiser", 0, 0)
    if whole:
        module, run = denoiser, lambda call, streams: [denoiser(**call, return_dict=False)[0]]
    elif hasattr(denoiser, "down_blocks"):
        module, run = body_unet(denoiser, start - 1)
    else:
        module, run = body_dit(denoiser, start - 1, stop - 1)
    dtype = str(denoiser.dtype).removeprefix("torch.")
    known = getattr(denoiser, "lsplit_digests", None)  # of a denoiser whose weights are not here
    print_ = fingerprint_of_tensors(type(denoiser).__name__, cut, dtype, known or digests(module))
    info = describe(name, print_, cut, 0, dtype, 1 << 20, 1 << 10)
    return PictureBody(run, frozenset(signature_of(denoiser)), info, module=module)


def split_image(
    pipe: Any,
    at: str,
    head: int,
    tail: int,
    link: Link,
    mode: str,
    guidance: str | None,
    up: str,
    down: str,
    skip: Skip = None,
) -> Any:
    """Put a far denoiser, or a denoiser with a far middle, into a shallow copy of `pipe`, which stays as it was."""
    name, far = part_of(pipe), Far(link, mode, up, down)
    denoiser = getattr(pipe, name)
    new = copy.copy(pipe)
    cls = getattr(pipe, "lsplit_class", type(pipe))  # a pipeline of load_local has a class that refuses to run
    new.__class__ = type(cls.__name__, (SplitPipeline, cls), {"__module__": cls.__module__})
    new.remote, new.scheduler = far, copy.deepcopy(pipe.scheduler)
    plain = guides_plainly(pipe)
    if at == "denoiser":
        stand_in = type(type(denoiser).__name__, (RemoteDenoiser,), {"__module__": type(denoiser).__module__})(
            denoiser, far, new
        )
        stand_in.guidance, stand_in.skip = guided_at(pipe, mode, guidance), skip
        if guidance == "host" and not plain:
            raise UnsupportedOption(f"How {type(pipe).__name__} guides is not known to the host; use guidance='local'.")
        new.cut = "the denoiser"
    else:
        if mode != "per_step" or guidance == "host":
            raise UnsupportedOption(
                "Lockstep and guidance at the host need the whole denoiser there; use at='denoiser'."
            )
        start, stop = picture_cut(denoiser, at, head, tail)
        unet = hasattr(denoiser, "down_blocks")
        stand_in = local_unet(denoiser, start - 1, far) if unet else local_dit(denoiser, start - 1, stop - 1, far)
        new.cut = f"blocks, head {head} / tail {tail}"
    setattr(new, name, stand_in)
    if mode == "lockstep":
        watch(new.scheduler)
    return new


def _blocks_or_none(denoiser: Any) -> int:
    try:
        return count_blocks(denoiser)
    except UnsupportedModel:
        return 1  # a family that is only ever moved whole
