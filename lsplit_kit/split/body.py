"""From a whole model to the body that a host or this process serves, and the fingerprint both sides compare."""

from __future__ import annotations

from transformers import PreTrainedModel

from ..errors import UnsupportedModel
from .fingerprint import digests, fingerprint
from .graft import body_side, decoder_of
from .plan import SplitPlan
from .session import Body
from .sessions import describe


def layer_prefix(model: PreTrainedModel) -> tuple[str, int]:
    """Name of the decoder's layer list in the whole model ("model.layers"), and how many layers it has."""
    base, name = decoder_of(model)
    path = next(path for path, module in model.named_modules() if module is base)
    return (f"{path}.{name}" if path else name), len(getattr(base, name))


def fingerprint_of(model: PreTrainedModel, plan: SplitPlan) -> tuple[str, int, int]:
    """(fingerprint, start, stop) of the body that this plan sends away; see `fingerprint`."""
    prefix, layers = layer_prefix(model)
    start, stop = plan.cut(layers)
    known = getattr(model, "lsplit_digests", None)
    if known is None:
        inside = tuple(f"{prefix}.{i}." for i in range(start, stop))
        known = digests((n, p) for n, p in model.named_parameters() if n.startswith(inside))
    return fingerprint(known, start, stop, prefix, model.dtype, model.config), start, stop


def body_of(model: PreTrainedModel, plan: SplitPlan) -> Body:
    """The body of this plan, sharing the model's tensors; raises PlanError and UnsupportedModel."""
    prefix, layers = layer_prefix(model)
    start, stop = plan.cut(layers)
    base = body_side(model, start, stop)
    if any(p.device.type == "meta" for p in base.parameters()):
        raise UnsupportedModel("This model was loaded without its body: give body= the address of a host that has it.")
    config = model.config.get_text_config(decoder=True)
    dtype = next(base.parameters()).dtype
    name = getattr(model, "lsplit_name", None) or config.model_type
    info = describe(
        name,
        fingerprint_of(model, plan)[0],
        (start, stop),
        width_of(model),
        str(dtype).removeprefix("torch."),
        longest(config),
    )
    return Body(base, info)


def width_of(model: PreTrainedModel) -> int:
    """Values per hidden vector between decoder layers."""
    return int(model.config.get_text_config(decoder=True).hidden_size)


def longest(config: object) -> int:
    """Positions that the model was made for."""
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None) or 1 << 20)
