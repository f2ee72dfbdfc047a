"""Settings of a panel that code can set too: the value of a control, and a sentence for what does not fit."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from ..errors import PlanError, UnsupportedOption
from ..quantization import codec as codec_of
from ..wire.message import MODES, POLICIES
from ..wire.network import PRESETS

RANGES = {
    "seed": (0, 2**31 - 1), "steps": (1, 999), "guidance_scale": (0, 100), "head": (0, 999), "tail": (0, 999),
    "prompt_tokens": (1, 1024), "new_tokens": (1, 1024),
}  # fmt: skip
CHOICES = {"mode": MODES, "cache": POLICIES, "policy": POLICIES, "network": ("none", *PRESETS)}
WORDS = {"prompt": "words that describe a picture", "sentence": "words that the model reads"}
LOSSLESS = "lossless"
LABEL = {"description_width": "8em"}


def field(kind: Any, description: str, tooltip: str, width: str = "330px", **more: Any) -> Any:
    """A control with the label and the width that those of all panels have."""
    return kind(description=description, tooltip=tooltip, style=LABEL, layout={"width": width}, **more)


class Setting:
    """An attribute of the panel that is the value of a control; what does not fit is refused with a sentence.

    The panel has `controls` by name, and `cuts` where one of them is a cut.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, panel: Any, owner: type) -> Any:
        return self if panel is None else panel.controls[self.name].value

    def __set__(self, panel: Any, value: Any) -> None:
        panel.controls[self.name].value = checked(self.name, value, getattr(panel, "cuts", []))


def checked(name: str, value: Any, cuts: list[str | int]) -> Any:
    """The value of a setting; an LsplitError says what it takes."""
    if name == "codec":
        return codec_of(value if isinstance(value, str) else repr(value)).spec
    if name in CHOICES and not (isinstance(value, str) and value in CHOICES[name]):
        what = "cache policy" if name == "policy" else name
        raise UnsupportedOption(f"Unknown {what} {value!r}; choose one of {', '.join(CHOICES[name])}.")
    if name in ("codec_up", "codec_down"):
        return value if value == LOSSLESS else checked("codec", value, cuts)
    if name in WORDS and not (isinstance(value, str) and value.strip()):
        raise UnsupportedOption(f"{name} takes {WORDS[name]}, got {value!r}.")
    if name == "cut" and (not isinstance(value, (str, int)) or isinstance(value, bool) or value not in cuts):
        more = f", or how many blocks stay local at either end ({', '.join(map(str, cuts[1:]))})" if cuts[1:] else ""
        raise PlanError(f'cut takes "denoiser"{more}; got {value!r}.')
    if name in RANGES:
        (low, high), kind = RANGES[name], Real if name == "guidance_scale" else Integral
        if not isinstance(value, kind) or isinstance(value, bool) or not low <= float(value) <= high:
            words = "a number" if kind is Real else "a whole number"
            raise UnsupportedOption(f"{name} takes {words} from {low:,} to {high:,}, got {value!r}.")
        return float(value) if kind is Real else int(float(value))
    return value
