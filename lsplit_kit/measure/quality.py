"""Pictures beside a reference, by four measures that need no download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from ..errors import UnsupportedOption

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

    Picture: TypeAlias = Image | np.ndarray | torch.Tensor

SMALLEST = 41  # pixels: VIF's four scales need as many


def picture_quality(pictures: Mapping[str, Picture], reference: Picture) -> pd.DataFrame:
    """One row per picture: psnr (dB, infinite for an equal picture), ssim, vif, and delta_e.

    Pictures are PIL images, arrays [H, W, 3] or tensors [3, H, W]; integers are 0 to 255, floats 0 to 1. PSNR over all
    channels; SSIM after Wang et al. 2004, VIF (pixel domain) after Sheikh and Bovik 2006, all by torchmetrics;
    delta_e is the mean CIEDE2000 colour difference of the pixels, by scikit-image: 1 is about what an eye tells apart.
    Raises UnsupportedOption for sizes that differ or lie under 41 pixels.
    """
    import pandas as pd

    if not isinstance(pictures, Mapping):
        raise UnsupportedOption("Give the pictures by name, for example {'int8': picture}, and then their reference.")
    truth = as_array(reference)
    rows = {name: _compare(name, as_array(picture), truth) for name, picture in pictures.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["psnr", "ssim", "vif", "delta_e"]).rename_axis(
        "picture"
    )


def difference(picture: Picture, reference: Picture) -> tuple[Image, float]:
    """(where two pictures differ, their largest difference, 0 to 1): the largest is drawn white, equality black.

    Raises UnsupportedOption for sizes that differ.
    """
    from PIL import Image

    a, b = as_array(picture), as_array(reference)
    if a.shape != b.shape:
        raise UnsupportedOption(f"The picture has the shape {a.shape}, its reference {b.shape}.")
    apart = np.abs(a - b)
    largest = float(apart.max())
    return Image.fromarray(np.rint(255 * apart / (largest or 1.0)).astype(np.uint8)), largest


def as_array(picture: Picture) -> np.ndarray:
    """A picture as float64 [H, W, 3], 0 to 1."""
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu().movedim(0, -1).numpy() if picture.ndim == 3 else picture.numpy()
    array = np.asarray(picture.convert("RGB") if hasattr(picture, "convert") else picture)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise UnsupportedOption(f"A picture has a height, a width and three colours, got the shape {array.shape}.")
    return array / 255.0 if array.dtype.kind in "ui" else array.astype(np.float64)


def _compare(name: str, picture: np.ndarray, truth: np.ndarray) -> tuple[float, float, float, float]:
    from skimage.color import deltaE_ciede2000, rgb2lab
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
        visual_information_fidelity,
    )

    if picture.shape != truth.shape:
        raise UnsupportedOption(f"{name} has the shape {picture.shape}, its reference {truth.shape}.")
    if min(picture.shape[:2]) < SMALLEST:
        raise UnsupportedOption(
            f"{name} is {picture.shape[1]} x {picture.shape[0]}; at least {SMALLEST} pixels a side."
        )
    a, b = (torch.from_numpy(np.ascontiguousarray(x)).movedim(-1, 0)[None].float() for x in (picture, truth))
    similar = structural_similarity_index_measure(a, b, data_range=1.0)
    return (
        float(peak_signal_noise_ratio(a, b, data_range=1.0)),
        float(similar if isinstance(similar, torch.Tensor) else similar[0]),
        float(visual_information_fidelity(a * 255, b * 255)),
        float(deltaE_ciede2000(rgb2lab(truth), rgb2lab(np.clip(picture, 0, 1))).mean()),
    )
