"""Names for pairs of codecs that were measured: `auto:image` says what goes up and what comes down of a picture.

auto:image: chosen for a median of 45 dB or more between the split and the unsplit picture of `emoji-ldm` (50 prompts,
guidance 3, 20 and 50 DDIM steps), at the fewest bytes both ways; `benchmarks/rate_distortion.py` measures it. Latents,
noise and velocities have about unit variance in every diffusion model, so a step is a share of that; it should carry
over, but other models were not measured. Noise that is guided after it came down has its error multiplied by up to
sqrt((s - 1)^2 + s^2) at guidance scale s, 3.6 at 3: where guidance is local, the step is smaller by that.

auto:text, auto:text-hq: transform coding with the calibration of the model and the cut (`klt`), measured by
`benchmarks/text_rate.py` on texts that no calibration saw; only the step was chosen by them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import CodecError

Pair = tuple[str, str]


class About(NamedTuple):
    """What a name is resolved for: "image" or "text", the cut, the mode, where guidance is applied, and which weights.

    fingerprint: gives that of the body's weights, which settings fitted to one model and cut may ask for.
    """

    kind: str
    at: str = "denoiser"
    mode: str = "per_step"
    guidance: str = "local"
    fingerprint: Callable[[], str] | None = None


def _image(about: About) -> Pair:
    if about.kind != "image":
        raise CodecError("auto:image is for pictures; for a language model name a codec, such as int8:token.")
    if about.at != "denoiser":
        raise CodecError(
            f"auto:image was chosen for the cut at the denoiser, not at={about.at!r}; name a codec there, such as int8."
        )
    step = "0.45" if about.guidance == "host" else "0.12"
    return "uniform:snr=34+near+ans", f"uniform:step={step}+delta+ans"


def _text(step: str) -> Callable[[About], Pair]:
    def pair(about: About) -> Pair:
        if about.kind != "text":
            raise CodecError("auto:text is for language models; for a picture name auto:image, or a codec.")
        return f"klt:step={step}+ans", f"klt:step={step}+ans"

    return pair


AUTO: dict[str, Callable[[About], Pair]] = {
    "auto:image": _image, "auto:text": _text("0.2"), "auto:text-hq": _text("0.13"),
}  # fmt: skip


def is_auto(spec: object) -> bool:
    """Whether this is such a name; raises CodecError for one that nobody knows."""
    if not isinstance(spec, str) or spec.partition(":")[0] != "auto":
        return False
    if spec not in AUTO:
        raise CodecError(f"Unknown codec {spec[:40]!r}: known names of settings are {', '.join(AUTO)}.")
    return True


def resolved(pair: tuple[str | None, str | None], about: About) -> tuple[str | None, str | None]:
    """(up, down) with a name in either place replaced by its own half; raises CodecError where it does not fit."""
    up, down = pair
    return (
        AUTO[up](about)[0] if up is not None and is_auto(up) else up,
        AUTO[down](about)[1] if down is not None and is_auto(down) else down,
    )
