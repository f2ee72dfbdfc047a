"""The controls of LinkLab: a network, two speeds, a reply and a codec; each is an attribute of the panel too."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import ipywidgets as W

from ..errors import UnsupportedOption
from ..wire.network import PRESETS, Network
from .settings import field

CUSTOM = "custom"
LINE = ("rtt_ms", "up_mbps", "down_mbps", "jitter_ms", "loss")
RIVALS = {"all three": ("local", "cloud", "split"), "local and split": ("local", "split")}
CODECS = ("fp32", "fp16", "int8:token", "int8:token+hadamard=64", "int4:group=64+hadamard=64")
KNOBS = {  # the sliders, in the order in which they stand on the page, and what a screen reader calls their handles
    "rtt_ms": "Round trip in milliseconds", "up_mbps": "Rate up in megabits per second",
    "down_mbps": "Rate down in megabits per second", "local_speed": "Speed of the local side, times as measured",
    "host_speed": "Speed of the host, times as measured",
}  # fmt: skip
ENDS = {"rtt_ms": (0.1, 3000), "up_mbps": (0.01, 1000), "down_mbps": (0.01, 1000), "local_speed": (0.1, 100),
        "host_speed": (0.1, 100)}  # fmt: skip


def _round(low: float, high: float) -> list[float]:
    """Round numbers from low to high, six in a decade."""
    found = [float(f"{step}e{k}") for k in range(-3, 4) for step in ("1", "1.5", "2", "3", "5", "7")]
    return [value for value in found if low <= value <= high]


def _labelled(values: list[float]) -> list[tuple[str, float]]:
    return [(f"{value:g}", value) for value in values]


def link_controls() -> dict[str, Any]:
    """All controls by name."""

    def knob(description: str, tooltip: str, low: float, high: float) -> Any:
        made = field(W.SelectionSlider, description, tooltip, "420px", options=_labelled(_round(low, high)))
        made.add_class("link-knob")
        return made

    speed = "Times as fast as the machine that was measured"
    return {
        "network": field(W.Dropdown, "Network", "A preset, or your own numbers", options=[*PRESETS, CUSTOM]),
        "rtt_ms": knob("Round trip, ms", "How long there and back, without bytes", *ENDS["rtt_ms"]),
        "up_mbps": knob("Mbit/s up", "Rate from the local side to the host", *ENDS["up_mbps"]),
        "down_mbps": knob("Mbit/s down", "Rate from the host to the local side", *ENDS["down_mbps"]),
        "jitter_ms": field(W.BoundedFloatText, "Jitter, ms", "Mean extra delay of a frame", min=0, max=1000, step=1),
        "loss": field(W.BoundedFloatText, "Loss", "Share of packets that are lost", min=0, max=0.4, step=0.001),
        "local_speed": knob("Local speed", speed, *ENDS["local_speed"]),
        "host_speed": knob("Host speed", speed, *ENDS["host_speed"]),
        "prompt": field(W.BoundedIntText, "Prompt", "Tokens of the prompt", min=1, max=512, value=32),
        "reply": field(W.BoundedIntText, "Reply", "Tokens of the reply", min=1, max=512, value=32),
        "codec": field(W.Dropdown, "Codec", "How hidden vectors become bytes, both ways", options=CODECS),
        "rivals": field(W.Dropdown, "Map compares", "Which deployments are possible at all", options=list(RIVALS)),
    }


class Knob:
    """An attribute of the panel that is the value of a control; what does not fit raises UnsupportedOption."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, panel: Any, owner: type) -> Any:
        return self if panel is None else panel.controls[self.name].value

    def __set__(self, panel: Any, value: Any) -> None:
        panel.put(self.name, value)


def fitting(name: str, control: Any, value: Any) -> Any:
    """The value, if the control can hold it; UnsupportedOption says what it takes."""
    if isinstance(control, W.Dropdown):
        if value not in control.options:
            raise UnsupportedOption(f"{name} takes one of {', '.join(control.options)}; got {value!r}.")
        return value
    low, high = ENDS.get(name) or (control.min, control.max)
    kind, words = (Integral, "a whole number") if isinstance(control, W.BoundedIntText) else (Real, "a number")
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= float(value) <= high:
        raise UnsupportedOption(f"{name} takes {words} from {low:g} to {high:g}, got {value!r}.")
    return int(float(value)) if kind is Integral else float(value)


def put_value(name: str, control: Any, value: Any) -> None:
    """Set a control, whatever it shows; a slider gets a place for a number that it has not. UnsupportedOption."""
    value = fitting(name, control, value)
    if isinstance(control, W.SelectionSlider):
        places = [place for _, place in control.options]
        if value not in places:
            control.options = _labelled(sorted([*places, value]))
    control.value = value


def put_network(controls: dict[str, Any], net: Network) -> None:
    """Set the controls of the line to a network's numbers; no limit is the fastest that a slider has."""
    for name in LINE:
        value = getattr(net, name)
        put_value(name, controls[name], 1000.0 if value is None else value)


def network_of(controls: dict[str, Any]) -> Network:
    """The network that the controls say; a preset's name as long as its numbers stand."""
    preset = controls["network"].value
    rtt, up, down, jitter, loss = (float(controls[name].value) for name in LINE)
    return Network(up, down, rtt, jitter, loss, "" if preset == CUSTOM else preset)


def name_of(net: Network) -> str:
    """The preset that has these numbers, or "custom"."""
    for name, preset in PRESETS.items():
        if all(getattr(preset, one) == getattr(net, one) for one in LINE):
            return name
    return CUSTOM
