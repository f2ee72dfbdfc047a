"""Choosing a codec: a base, a slider for bits, quality or step, what else it takes, and the spec, which can be typed.

`spec_of` and `parts_of` are the two ways between the controls and the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ipywidgets as W
import traitlets

from ..errors import LsplitError
from ..quantization.spec import parse
from .settings import checked, field

Value = str | bool


class Base(NamedTuple):
    """One kind of codec: its name in the menu, its slider's name and values (finest last), its usual settings."""

    name: str
    knob: str
    values: tuple[str, ...]
    usual: Mapping[str, Value]


_STAGES: dict[str, Value] = {"rotate": False, "apart": False}
_CODED: dict[str, Value] = {"coder": "ans", "predict": False, "near": False}
BASES = {
    "int": Base("INT, whole bits", "Bits", tuple("12345678"),
                {"knob": "8", "scale": "tensor", "clip": False, **_STAGES}),
    "snr": Base("uniform, quality", "Quality in dB",
                ("2", "4", "6", "8", "10", "15", "20", "25", "30", "34", "35", "40", "45", "50"),
                {"knob": "30", **_CODED}),
    "step": Base("uniform, step", "Step", ("2", "1.2", "0.8", "0.5", "0.3", "0.2", "0.15", "0.1", "0.05", "0.02"),
                 {"knob": "0.3", **_CODED}),
    "klt": Base("calibrated, step", "Step", ("2", "1.2", "0.8", "0.6", "0.4", "0.3", "0.2", "0.13", "0.1", "0.05"),
                {"knob": "0.2"}),
    "fp8": Base("FP8", "Format", ("e5m2", "e4m3"), {"knob": "e4m3"}),
    "nf4": Base("NF4", "Group", ("256", "128", "64", "32", "16"), {"knob": "64", **_STAGES}),
    "format": Base("number format", "Format", ("bf16", "fp16", "fp32"), {"knob": "fp16"}),
    "typed": Base("as typed", "-", ("-",), {"knob": "-"}),
}  # fmt: skip
SCALES = {"tensor": "", "token": ":token", "channel": ":channel", "groups of 64": ":group=64",
          "groups of 64, affine": ":group=64:affine"}  # fmt: skip


def spec_of(base: str, parts: Mapping[str, Value]) -> str:
    """The spec of what the controls say; not for "typed"."""
    knob, coder = parts["knob"], parts.get("coder", "none")
    front = {"int": f"int{knob}", "snr": f"uniform:snr={knob}", "step": f"uniform:step={knob}",
             "klt": f"klt:step={knob}+ans", "fp8": f"fp8:{knob}",
             "nf4": f"nf4:group={knob}", "format": str(knob)}[base]  # fmt: skip
    return "".join((
        front, SCALES[str(parts.get("scale", "tensor"))], ":clip=mse" * bool(parts.get("clip")),
        "+outliers=16" * bool(parts.get("apart")), "+hadamard=64" * bool(parts.get("rotate")),
        "+delta" * bool(parts.get("predict")), "+near" * bool(parts.get("near")),
        "" if coder == "none" else f"+{coder}",
    ))  # fmt: skip


def parts_of(spec: str) -> tuple[str, dict[str, Value]]:
    """(base, what its controls say) of a spec; ("typed", ...) for one that the controls cannot say."""
    found = parse(spec)
    group = found.options.get("group")
    groups = "groups of 64, affine" if "affine" in found.options else "groups of 64"
    parts: dict[str, Value] = {
        "scale": groups if group == "64" else next((o for o in found.options if o in SCALES), "tensor"),
        "clip": "clip" in found.options, "apart": "outliers" in found.stages, "rotate": "hadamard" in found.stages,
        "predict": "delta" in found.stages, "near": "near" in found.stages,
        "coder": next((s for s in found.stages if s in ("zstd", "ans")), "none"),
    }  # fmt: skip
    knobs = {
        "int": found.base.removeprefix("int"), "snr": found.options.get("snr", ""), "nf4": group or "",
        "step": found.options.get("step", ""), "klt": found.options.get("step", ""),
        "fp8": next(iter(found.options), ""), "format": found.base,
    }  # fmt: skip
    for base, (_, _, values, usual) in BASES.items():
        mine = {name: parts[name] for name in usual if name != "knob"} | {"knob": knobs.get(base, "")}
        if mine["knob"] in values and spec_of(base, mine) == spec:
            return base, mine
    return "typed", dict(BASES["typed"].usual)


class CodecPicker(W.VBox):
    """The controls of one codec; `spec` is always one that the kit knows, and `failed` hears of another.

    predicts: whether it is tried on what comes in steps; calibrated: whether a calibration fits what it is tried on.
    """

    spec = traitlets.Unicode("int8", help="the codec's spec; CodecError for an unknown one")

    def __init__(
        self, spec: str, failed: Callable[[str], None], predicts: bool = True, calibrated: bool = True
    ) -> None:
        self.failed, self.predicts, self._calibrated, self._moving = failed, predicts, calibrated, False
        self.knob_name = ""
        self.controls: dict[str, Any] = {
            "base": field(W.Dropdown, "Codec", "What kind of codec", options=self._menu()),
            "knob": field(W.SelectionSlider, "Bits", "To the right: more bits", options=BASES["int"].values, value="8"),
            "scale": field(W.Dropdown, "A scale for each", "Which values share a scale", options=list(SCALES)),
            "coder": field(W.Dropdown, "Entropy coder", "Frequent numbers take fewer bits", "330px",
                           options=["none", "zstd", "ans"]),
            "clip": field(W.Checkbox, "clip the range", "The range of the least squared error", indent=False),
            "rotate": field(W.Checkbox, "rotate blocks of 64", "An outlier is spread over its block", indent=False),
            "apart": field(W.Checkbox, "16 outliers apart", "The largest of each token cross as FP16", indent=False),
            "predict": field(W.Checkbox, "predict from step to step", "Only the difference crosses", indent=False),
            "near": field(W.Checkbox, "predict from token to token", "Only the difference crosses", indent=False),
        }  # fmt: skip
        self.typed = field(
            W.Text, "Spec", "The codec's name; type any of docs/codecs.md", "auto", continuous_update=False
        )
        for name, control in (*self.controls.items(), ("spec", self.typed)):
            control.add_class(f"quant-{name}")
        for name in ("clip", "rotate", "apart", "predict", "near"):
            self.controls[name].layout.width = "auto"
            self.controls[name].layout.margin = "2px 12px"
        rows = [("base", "knob"), ("scale", "coder"), ("clip", "rotate", "apart", "predict", "near")]
        super().__init__([
            *(W.HBox([self.controls[name] for name in row], layout={"flex_flow": "row wrap"}) for row in rows),
            self.typed,
        ])  # fmt: skip
        self.spec = spec
        self._show()
        for name, control in self.controls.items():
            control.observe(self._based if name == "base" else self._moved, "value")
        self.typed.observe(self._written, "value")
        self.observe(lambda change: self._show(), "spec")

    @traitlets.validate("spec")
    def _known(self, proposal: Any) -> str:
        return checked("codec", proposal["value"], [])

    @property
    def calibrated(self) -> bool:
        """Whether codecs that need a calibration are in the menu; a spec in force stays, as if it were typed."""
        return self._calibrated

    @calibrated.setter
    def calibrated(self, yes: bool) -> None:
        if yes != self._calibrated:
            self._calibrated, self._moving = yes, True
            try:
                self.controls["base"].options = self._menu()
            finally:
                self._moving = False
            self._show()

    def _menu(self) -> list[tuple[str, str]]:
        return [(base.name, key) for key, base in BASES.items() if key != "klt" or self._calibrated]

    def choose(self, spec: object) -> None:
        """Set the spec from code; raises CodecError for an unknown one."""
        self.spec = checked("codec", spec, [])

    def _show(self) -> None:
        """Make the controls say what the spec says."""
        if self._moving:
            return
        base, parts = parts_of(self.spec)
        if base == "klt" and not self._calibrated:
            base, parts = "typed", dict(BASES["typed"].usual)
        self._put(base, parts)

    def _put(self, base: str, parts: Mapping[str, Value]) -> None:
        self._moving = True
        try:
            kind, knob = BASES[base], self.controls["knob"]
            self.controls["base"].value = base
            if knob.options != kind.values:
                knob.options = kind.values
            knob.description, knob.disabled = kind.knob, base == "typed"
            self.knob_name = kind.knob
            for name, control in self.controls.items():
                if name in parts:
                    control.value = parts[name]
                if name not in ("base", "knob"):
                    hidden = name not in kind.usual or (name == "predict" and not self.predicts)
                    control.layout.display = "none" if hidden else None
            if base != "typed":
                self.spec = spec_of(base, parts)
            self.typed.value = self.spec
        finally:
            self._moving = False

    def _based(self, change: Any) -> None:
        if not self._moving:
            self._put(change["new"], BASES[change["new"]].usual)

    def _moved(self, change: Any) -> None:
        base = self.controls["base"].value
        if not self._moving and base != "typed":
            parts = {name: self.controls[name].value for name in BASES[base].usual}
            if parts.get("predict") and parts.get("near"):  # one prediction at a time: the newer one
                parts["predict" if change["owner"] is self.controls["near"] else "near"] = False
            self._put(base, parts)

    def _written(self, change: Any) -> None:
        if self._moving:
            return
        try:
            self.spec = re.sub(r"\s+", "", change["new"])
        except LsplitError as error:
            self.failed(str(error))
        else:
            self._show()  # the same spec again: blanks go, and the sentence about the last one
            self.failed("")
