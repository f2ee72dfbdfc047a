"""One knob: a step for all values, given (`step=0.1`) or from a wanted quality (`snr=30`, dB), and an entropy coder.

At the same squared error it needs fewer bits than levels between the smallest and the largest value: the coder, not
the range, decides what a value costs. It sits about 0.25 bit above Shannon's bound at high rates (Gish, Pierce 1968).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import CodecError
from .entropy import CODERS, read_varint, varint
from .levels import crossed, crossing
from .registry import Codec, family
from .spec import Spec

USUAL = (
    "uniform:snr=40+zstd",
    "uniform:snr=40+ans",
    "uniform:snr=30+ans",
    "uniform:snr=20+ans",
    "uniform:step=0.1+ans",
    "uniform:step=0.1+delta+ans",
    "uniform:snr=34+near+ans",
)
LARGEST = 2**30  # steps that a value may be away from zero


@family("uniform")
def _uniform(spec: Spec) -> Codec:
    from .delta import Delta
    from .near import Near

    spec.only(("step", "snr"), ("delta", "near", "zstd", "ans"))
    guesses: dict[str, type[Uniform]] = {"delta": Delta, "near": Near}
    guess = [guesses[name] for name in spec.stages if name in guesses]
    coders = [name for name in spec.stages if name not in guesses]
    if len(spec.options) != 1 or len(coders) > 1 or len(guess) > 1 or any(spec.stages.values()):
        raise CodecError(
            f"Unknown codec {spec.text!r}: uniform takes step=... or snr=... (dB), +delta, +near or neither, and "
            "+zstd, +ans or neither."
        )
    ((name, value),) = spec.options.items()
    knob = spec.number(name, value, 1e-6, 1e6) if name == "step" else spec.number(name, value, -10, 120)
    return (guess or [Uniform])[0](spec.text, name, knob, "".join(coders))


class Uniform(Codec):
    """Values rounded to whole steps; payload: its own length, the step where it depends on the tensor, the numbers."""

    fixed = False
    bits_per_value = float("nan")  # what the values need

    def __init__(self, spec: str, name: str, knob: float, coder: str) -> None:
        super().__init__(spec)
        self.given = knob if name == "step" else None
        self.snr = knob if name == "snr" else None
        self.coder_of_numbers = CODERS[coder]

    def payload_bytes(self, shape: tuple[int, ...]) -> int:
        """The most it can be: four bytes a value, and the curve, the step and the length."""
        count = math.prod(shape)
        return 4 * count + count // 64 + 64 if count else 0

    def _pack(self, tensor: Tensor) -> bytes:
        if not tensor.numel():
            return b""
        values = tensor.to(torch.float64).numpy().ravel()
        return self.written(values, *self.step_of(values))[0]

    def _unpack(self, payload: bytes, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        if not count:
            return torch.empty(shape)
        with np.errstate(over="ignore", invalid="ignore"):  # what a peer's step makes infinite is refused
            return torch.from_numpy(self.read(payload, count).astype(np.float32)).reshape(shape)

    def step_of(self, values: np.ndarray) -> tuple[float, bytes]:
        """(the step, its bytes where it has to cross): snr is signal over rounding error, which is step^2 / 12."""
        if self.given is not None:
            return self.given, b""
        assert self.snr is not None
        loud = math.sqrt(float(np.square(values).mean()))
        step, said = crossing(np.array([[loud * math.sqrt(12) * 10 ** (-self.snr / 20)]]), True)
        return float(step[0, 0]), said

    def written(self, values: np.ndarray, step: float, said: bytes) -> tuple[bytes, np.ndarray]:
        """(payload, the values as the other side will have them) of float64 values [n]."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            steps = np.rint(values / step) if step else np.zeros_like(values)
        if np.abs(steps).max() > LARGEST:
            raise CodecError(f"{self.spec}: a value is more than {LARGEST:,} steps from zero; use a larger step.")
        numbers = self.coder_of_numbers.pack(steps.astype(np.int32))
        body = varint(len(said) + len(numbers)) + said + numbers
        return body, self.coder_of_numbers.unpack(numbers, values.size) * np.float64(step) if self.stateful else values

    def read(self, payload: bytes, count: int) -> np.ndarray:
        """The values [n], float64; raises CodecError."""
        step, at = self.step_at(payload)
        return self.coder_of_numbers.unpack(payload[at:], count) * np.float64(step)

    def step_at(self, payload: bytes) -> tuple[float, int]:
        """(the step, where the numbers begin) of a whole payload; raises CodecError."""
        size, at = read_varint(payload, 0)
        if size != len(payload) - at:
            raise CodecError(f"{self.spec}: the payload says {size} bytes, {len(payload) - at} follow.")
        if self.given is not None:
            return self.given, at
        return float(crossed(payload[at : at + 2].ljust(2, b"\0"), 1, True)[0, 0]), at + 2
