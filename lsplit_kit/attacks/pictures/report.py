"""How near pictures come to the truth: the one module that opens a capture's truth of pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...card import Card
from ...errors import CaptureError
from ...wire.capture import Capture
from ..attack import Cost, Reconstruction
from .base import Painted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class PictureReport(Card):
    """pictures: one row per picture: psnr and ssim of the pixels, exact (all of them equal), correlation, latent_psnr
    and worst (largest difference) of the finished latents. steps: one row per picture and call: the correlation of what
    the attack believed by then, psnr and ssim of the picture it could paint (where they were asked for)."""

    attack: str
    observer: str
    pictures: pd.DataFrame
    steps: pd.DataFrame
    cost: Cost

    def row(self) -> dict[str, object]:
        """The figures of a table's row: means over the pictures, of decibels medians, and the share of exact ones."""
        count, table = len(self.pictures), self.pictures
        return {
            "attack": self.attack, "observer": self.observer, "pictures": count,
            "psnr": middle(table.psnr), "latent_psnr": middle(table.latent_psnr),
            **{name: float(table[name].mean()) for name in ("ssim", "correlation", "exact")},
            "worst": float(table.worst.max()),
            "fit_seconds": self.cost.fit_seconds, "seconds_per_picture": self.cost.read_seconds / max(1, count),
        }  # fmt: skip

    def by_step(self) -> pd.DataFrame:
        """Means over the pictures, of decibels medians, by call."""
        some = self.steps.columns.drop(["picture", "call"])
        return self.steps.groupby("call").agg({name: middle if "psnr" in name else "mean" for name in some})

    def _card(self) -> tuple[str, dict[str, object]]:
        row = self.row()
        return f"{self.attack} by {self.observer}", {
            "pictures": row["pictures"],
            "equal in every pixel": f"{row['exact']:.0%}",
            "PSNR, median": f"{row['psnr']:.1f} dB",
            "SSIM": f"{row['ssim']:.3f}",
            "correlation of latents": f"{row['correlation']:.3f}",
            "cost": f"{row['fit_seconds']:.1f} CPU-s to fit, {row['seconds_per_picture']:.2f} a picture",
        }


def report_pictures(found: Painted, capture: Capture, by_step: bool = False) -> PictureReport:
    """Compare pictures with the truth of their capture; by_step: also what could be painted after each call.

    Raises CaptureError when the capture has no truth of pictures.
    """
    import pandas as pd

    truth = opened(capture)
    if len(truth["latent"]) != len(found.latents):
        raise CaptureError(f"The truth holds {len(truth['latent'])} pictures, the attack's {len(found.latents)}.")
    rows, steps = [], []
    for number, latent in enumerate(found.latents):
        true, picture = truth["latent"][number], truth["picture"][number].numpy()
        psnr, ssim = compared(found.pictures[number], picture)
        rows.append(
            {
                "picture": number,
                "psnr": psnr,
                "ssim": ssim,
                "exact": np.array_equal(found.pictures[number], picture),
                "correlation": correlation(latent, true),
                "latent_psnr": psnr_of(latent, true),
                "worst": float((latent - true).abs().max()),
            }  # fmt: skip
        )
        strip = found.strip(number) if by_step else [None] * len(found.steps[number])
        skipped = len(truth["reads"][number]) - len(strip)  # an attack may look at the last calls only
        for call, (belief, painted) in enumerate(zip(found.steps[number], strip, strict=True)):
            a, b = compared(painted, picture) if painted is not None else (float("nan"), float("nan"))
            seen = {"correlation": correlation(belief, true), "psnr": a, "ssim": b}
            if found.reads is not None:
                seen["read_psnr"] = psnr_of(found.reads[number][call], truth["reads"][number][skipped + call])
            steps.append({"picture": number, "call": skipped + call, **seen})
    return PictureReport(found.attack, found.observer, pd.DataFrame(rows), pd.DataFrame(steps), found.cost)


def prompts_exact(found: Reconstruction, capture: Capture) -> list[bool]:
    """Of each picture whether every token of its prompt, and where it ends, was found; raises CaptureError."""
    truth = opened(capture)
    rows = truth["ids"].split(truth["length"].tolist())
    if len(rows) != len(found.tokens):
        raise CaptureError(f"The truth holds {len(rows)} prompts, the reconstruction {len(found.tokens)}.")
    stops = truth["stop"].tolist()
    return [
        bool(torch.equal(guess[: stop + 1], ids[: stop + 1]))
        for guess, ids, stop in zip(found.tokens, rows, stops, strict=True)
    ]


def opened(capture: Capture) -> dict[str, Tensor]:
    """The truth of a capture of pictures; raises CaptureError where there is none."""
    truth = capture.sealed.open() if capture.sealed is not None else {}
    if not {"latent", "picture"} <= set(truth):
        raise CaptureError("This capture has no truth of pictures; make one with attacks.pictures.record_picture().")
    return truth


def compared(picture: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(PSNR in dB, infinite for equal pictures; SSIM after Wang et al. 2004) of pictures uint8 [H, W, 3]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (torch.from_numpy(x.astype(np.float32) / 255).movedim(-1, 0)[None] for x in (picture, truth))
    similar = structural_similarity_index_measure(a, b, data_range=1.0)
    return psnr_of(a, b, 1.0), float(similar if isinstance(similar, Tensor) else similar[0])


def psnr_of(guess: Tensor, truth: Tensor, peak: float | None = None) -> float:
    """10 log10(peak^2 / mean squared error) in dB, infinite where they are equal; peak: the truth's range if None."""
    error = float((guess.double() - truth.double()).square().mean())
    size = float(truth.max() - truth.min()) if peak is None else peak
    return float("inf") if error == 0 else float(10 * np.log10(size**2 / error))


def middle(values: Iterable[float]) -> float:
    """The median of decibels, of two middle ones the lower: one picture that is equal makes a mean infinite."""
    ordered = np.sort(np.fromiter(values, float))
    return float(ordered[(len(ordered) - 1) // 2])


def correlation(guess: Tensor, truth: Tensor) -> float:
    """Pearson's correlation of two latents, over all values."""
    a, b = (x.double().flatten() - x.double().mean() for x in (guess, truth))
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-12))
