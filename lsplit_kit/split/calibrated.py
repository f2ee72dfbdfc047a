"""Which calibration a codec without one gets: the one that was made for this model at this cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..errors import CalibrationMissing
from ..quantization.calibration import bound, calibrations, fitting, unbound
from .graft import decoder_of
from .plan import SplitPlan

Pair = tuple[str | None, str | None]


def facts_of(model: PreTrainedModel) -> dict[str, Any]:
    """What tells a model from another one to whoever looks for its calibration; `probe` is a piece of its embedding."""
    base, name = decoder_of(model)
    config = model.config.get_text_config(decoder=True)
    row = model.get_input_embeddings().weight[-1, :16].detach().float().tolist()
    return {
        "model_type": config.model_type, "width": config.hidden_size, "layers": len(getattr(base, name)),
        "probe": [round(value, 5) for value in row],
    }  # fmt: skip


def calibrated_at(model: PreTrainedModel | str, head: int, tail: int) -> bool:
    """Whether both crossings of a cut have a calibration; a name stands for a model that is not loaded yet."""
    if not isinstance(model, str):
        facts = facts_of(model)
        return all(fitting(facts, depth) is not None for depth in (head, facts["layers"] - tail))
    found = [known.facts for known in calibrations()]
    depths = {(f.get("depth"), f.get("layers")) for f in found if f.get("model") == Path(model).name}
    return any((head, layers) in depths and (layers - tail, layers) in depths for _, layers in depths)


def with_calibrations(pair: Pair, model: PreTrainedModel, plan: SplitPlan) -> Pair:
    """(up, down) with a calibration's name where a codec asks for one; raises CalibrationMissing."""
    if not any(spec is not None and unbound(spec) for spec in pair):
        return pair
    facts = facts_of(model)
    found = []
    for spec, depth in zip(pair, (plan.head, facts["layers"] - plan.tail), strict=True):
        if spec is not None and unbound(spec):
            name = fitting(facts, depth)
            if name is None:
                raise CalibrationMissing(
                    f"{spec} needs a calibration, and there is none of this model after layer {depth} of "
                    f"{facts['layers']}; make one with lsplit calibrate, or take another cut or codec."
                )
            spec = bound(spec, name)
        found.append(spec)
    return found[0], found[1]
