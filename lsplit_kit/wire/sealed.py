"""The truth that belongs to a capture, closed to everybody but the reports of attacks."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..card import Card
from ..errors import CaptureError

Truth = dict[str, Tensor]


class Sealed(Card):
    """Tensors by name that no attack may look at; only what compares an attack with the truth calls `open`."""

    def __init__(self, truth: Truth | Path) -> None:
        if not isinstance(truth, Path) and not (
            isinstance(truth, dict) and all(isinstance(v, Tensor) for v in truth.values())
        ):
            raise CaptureError("truth takes a dict of tensors, such as {'input_ids': ids}.")
        self._truth = truth

    @classmethod
    def load(cls, path: Path) -> Sealed:
        """The truth in a file, which is read when it is opened."""
        return cls(path)

    def open(self) -> Truth:
        """The truth; raises CaptureError when its file is not readable."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if isinstance(self._truth, dict):
            return self._truth
        try:
            return load_file(self._truth)
        except (OSError, SafetensorError) as err:
            raise CaptureError(f"{self._truth} is not a readable truth ({type(err).__name__}).") from None

    def save(self, path: Path) -> None:
        """Write the tensors to a safetensors file; raises what safetensors raises."""
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in self.open().items()}, path)

    def _card(self) -> tuple[str, dict[str, object]]:
        return "Truth of a capture", {"sealed": "only the report of an attack opens it"}
