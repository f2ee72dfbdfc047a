"""A host that holds a whole pipeline: a text up, the finished picture down as a PNG. For comparison with a split."""

from __future__ import annotations

import copy
import inspect
import io
import secrets
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..errors import FingerprintMismatch, FrameError, LimitExceeded, LsplitError, UnsupportedModel, UnsupportedOption
from ..quantization import Calibration
from ..wire.message import HostInfo, Open, WholeStep
from .fingerprint import digests, fingerprint_of_tensors
from .image import part_of, picture_cut
from .pool import Pool
from .sessions import Remembered, Sessions, describe
from .telling import tensors_of
from .whole import check_terms, no_part
from .whole_options import PICTURE, checked, from_json

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PROMPT = 4096  # bytes of a picture's text
MAX_SIDE = 1024  # pixels


class Drawing(Remembered):
    """One client's picture: nothing is kept but the last answer."""

    def __init__(self, terms: Open, given: Mapping[str, Calibration]) -> None:
        super().__init__(terms, given)

    def size(self) -> int:
        """Bytes of the last answer."""
        return len(self.last[2] or b"")


class WholePictures(Sessions[Drawing, WholeStep]):
    """The whole of a pipeline; it reads the prompt, and draws the picture."""

    policies, message = ("picture",), WholeStep

    def __init__(self, pipe: Any, info: HostInfo, pool: Pool | None = None) -> None:
        super().__init__(info, pool)
        self.pipe = pipe

    def fork(self) -> WholePictures:
        """The same pipeline with its own sessions, for one more connection; compute stays one at a time."""
        return WholePictures(self.pipe, self.info, self.pool)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor | None]]:
        """All of the pipeline; its tokenizers have no tensors."""
        for name, part in self.pipe.components.items():
            if isinstance(part, torch.nn.Module):
                yield from tensors_of(part, f"{name}.")
            elif part is not None and name.startswith("tokenizer"):
                yield name, None

    def sub(self, start: int, stop: int) -> WholePictures:
        """FingerprintMismatch, always: a whole pipeline's host serves no part of it."""
        raise FingerprintMismatch(no_part(self.info))

    def _begin(self, terms: Open) -> Drawing:
        check_terms(terms)
        return Drawing(terms, self.calibrations)

    def _answer(self, session: Drawing, step: WholeStep) -> bytes:
        """The picture as a PNG."""
        if not 1 <= len(step.payload) <= MAX_PROMPT:
            raise LimitExceeded(f"A picture's text has 1 to {MAX_PROMPT:,} bytes, got {len(step.payload):,}.")
        try:
            prompt = step.payload.decode()
        except UnicodeDecodeError:
            raise FrameError("A picture's text is UTF-8.") from None
        options = picture_options(from_json(step.form))
        with self.pool.computing:
            return to_png(draw(self.pipe, prompt, options))


def picture_options(options: Mapping[str, object]) -> dict[str, Any]:
    """Checked options of a picture; raises UnsupportedOption and LimitExceeded."""
    found = checked(options, PICTURE)
    for name in ("height", "width"):
        if found.get(name, 8) % 8:
            raise UnsupportedOption(f"{name} takes a multiple of 8 pixels, got {found[name]}.")
    return found


def draw(pipe: Any, prompt: str, options: Mapping[str, Any]) -> Image:
    """One picture by the pipeline; without a seed another one each time."""
    wanted = {k: v for k, v in options.items() if k != "seed"}
    seed = options.get("seed", secrets.randbits(62))
    try:
        return pipe(prompt, generator=torch.Generator().manual_seed(seed), **wanted).images[0]
    except LsplitError:
        raise
    except ValueError as error:
        raise UnsupportedOption(f"The pipeline refuses these options: {str(error)[:200]}") from error


def quiet(pipe: Any) -> Any:
    """A shallow copy of a pipeline with a scheduler of its own and no progress bar."""
    new = copy.copy(pipe)
    new.scheduler = copy.deepcopy(pipe.scheduler)
    new.set_progress_bar_config(disable=True)
    return new


def to_png(picture: Image) -> bytes:
    """A picture as a PNG, RGB."""
    out = io.BytesIO()
    picture.convert("RGB").save(out, "PNG")
    return out.getvalue()


def from_png(raw: bytes) -> Image:
    """A host's picture; its size is read before its pixels are. Raises FrameError and LimitExceeded."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(raw), formats=("PNG",))
        if max(picture.size) > MAX_SIDE:
            raise LimitExceeded(f"The host's picture has {picture.size} pixels; the limit is {MAX_SIDE} a side.")
        return picture.convert("RGB")
    except LsplitError:
        raise
    except Exception:  # whatever a decoder says of damaged bytes
        raise FrameError("The host's answer is no readable PNG.") from None


def whole_pictures(pipe: Any) -> WholePictures:
    """The host's side of a cloud-only deployment, sharing the pipeline's tensors; raises UnsupportedModel."""
    denoiser = getattr(pipe, part_of(pipe))
    if hasattr(denoiser, "lsplit_digests"):
        raise UnsupportedModel("This pipeline was loaded without its denoiser; take the one of lk.load.")
    missing = {"prompt", "generator", *PICTURE} - {"seed"} - set(inspect.signature(type(pipe).__call__).parameters)
    if missing:
        raise UnsupportedModel(f"{type(pipe).__name__} does not take {', '.join(sorted(missing))}.")
    modules = {n: m for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
    tensors = {f"{n}.{key}": value for n, module in modules.items() for key, value in digests(module).items()}
    held, dtype = picture_cut(denoiser, "denoiser", 0, 0), str(denoiser.dtype).removeprefix("torch.")
    known = fingerprint_of_tensors(f"whole {type(pipe).__name__}", held, dtype, tensors)
    name = getattr(pipe, "lsplit_name", None) or type(pipe).__name__
    return WholePictures(quiet(pipe), describe(f"{name}, whole", known, held, 0, dtype, 1 << 20, 1))
