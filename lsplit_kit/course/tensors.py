"""Tensors for the checkers: made-up ones, and what is wrong with a learner's."""

from __future__ import annotations

import torch
from torch import Tensor

from lsplit_kit.course.checks import Wrong

SHAPE = (1, 4, 8, 8)  # of the latents that the checks make up


def draw(seed: int, *shape: int) -> Tensor:
    """Standard normal values of one seed; of SHAPE where no shape is given."""
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


def tensor_of(value: object, shape: tuple[int, ...], what: str) -> Tensor | Wrong:
    """A learner's tensor, or what is wrong with its kind or shape."""
    if not isinstance(value, Tensor):
        return Wrong(f"{what} must be a tensor, got {type(value).__name__}")
    if tuple(value.shape) != shape:
        return Wrong(f"{what} has the shape {tuple(value.shape)}, a tensor of shape {shape} was expected", 1)
    return value


def near(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal but for rounding."""
    return bool(torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5))
