"""Codecs that only change the number format: fp32 (lossless), fp16, bf16, fp8."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import CodecError, NonFiniteError
from .registry import Codec, family, register
from .spec import Spec  # noqa

USUAL = ("fp32", "fp16", "bf16", "fp8:e4m3", "fp8:e5m2")


class _Cast(Codec):
    dtype: torch.dtype

    @property
    def bits_per_value(self) -> float:  # type: ignore[override]
        return self.dtype.itemsize * 8

    def _pack(self, tensor: Tensor) -> bytes:
        cast = tensor.to(self.dtype)
        if self.dtype is torch.float16 and not bool(torch.isfinite(cast).all()):
            raise NonFiniteError("fp16: a value is beyond 65504; use bf16, fp32 or int8:token for this tensor.")
        return cast.view(torch.uint8).numpy().tobytes() if cast.numel() else b""

    def _unpack(self, payload: bytes, shape: tuple[int, ...]) -> Tensor:
        tensor = torch.empty(shape, dtype=self.dtype)  # torch's own memory: 64-byte aligned, and alignment changes bits
        tensor.view(-1).view(torch.uint8).numpy()[:] = np.frombuffer(payload, np.uint8)
        return tensor


@register("fp32")
class Float32(_Cast):
    """Single precision, 32 bits: lossless for fp32 models."""

    dtype = torch.float32


@register("fp16")
class Float16(_Cast):
    """Half precision, 16 bits; refuses values beyond 65504."""

    dtype = torch.float16


@register("bf16")
class BFloat16(_Cast):
    """Brain float, 16 bits: the range of fp32 with 8 bits of precision."""

    dtype = torch.bfloat16


class Float8(_Cast):
    """Eight bits: e4m3 with three bits of precision up to 448, e5m2 with two up to 57344 (arXiv 2209.05433).

    Larger magnitudes become the largest there is.
    """

    def __init__(self, spec: str, dtype: torch.dtype) -> None:
        super().__init__(spec)
        self.dtype = dtype

    def _pack(self, tensor: Tensor) -> bytes:
        most = torch.finfo(self.dtype).max
        return super()._pack(tensor.clamp(-most, most))

    def _unpack(self, payload: bytes, shape: tuple[int, ...]) -> Tensor:
        return super()._unpack(payload, shape).to(torch.float32)  # torch cannot say whether an fp8 tensor is finite


@family("fp8")
def _float8(spec: Spec) -> Codec:
    spec.only(("e4m3", "e5m2"))
    if len(spec.options) != 1:
        raise CodecError(f"Unknown codec {spec.text!r}: fp8 is fp8:e4m3 or fp8:e5m2.")
    return Float8(spec.text, torch.float8_e4m3fn if "e4m3" in spec.options else torch.float8_e5m2)


def lossless(dtype: torch.dtype) -> str:
    """The spec that carries a model of this number format without loss; CodecError where there is none."""
    for name, cls in (("fp32", Float32), ("bf16", BFloat16), ("fp16", Float16)):
        if cls.dtype is dtype:
            return name
    raise CodecError(f"No codec carries {dtype} without loss; load the model in float32, bfloat16 or float16.")


def loses(spec: str, dtype: torch.dtype) -> bool:
    """Whether a codec may change the values of a tensor of this number format."""
    known = {
        "fp32": (torch.float32, torch.float16, torch.bfloat16),
        "fp16": (torch.float16,),
        "bf16": (torch.bfloat16,),
    }
    return dtype not in known.get(spec, ())
