"""What each part of a plan costs: parameters, bytes, FLOPs. Counting only; nothing is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from .graft import decoder_of

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from .plan import SplitPlan


def size(modules: list[nn.Module]) -> tuple[int, int]:
    """Parameters and bytes of some modules, a shared tensor counted once."""
    tensors = {id(p): p for module in modules for p in module.parameters()}.values()
    return sum(p.numel() for p in tensors), sum(p.numel() * p.element_size() for p in tensors)


def layer_flops(layer: nn.Module, model: PreTrainedModel, context: int) -> int:
    """FLOPs of one decoder layer for one new token: two per weight, and four per cached value that attention reads."""
    config = model.config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * sum(p.numel() for p in layer.parameters() if p.dim() > 1) + 4 * context * width


def plan_table(plan: SplitPlan, model: PreTrainedModel, context: int) -> pd.DataFrame:
    """One row per part: layers, parameters, bytes, FLOPs per token at `context` positions, and the side it runs on."""
    import pandas as pd

    base, name = decoder_of(model)
    layers = list(getattr(base, name))
    first, last = plan.cut(len(layers))
    inside = {id(p) for layer in layers for p in layer.parameters()}
    ends = [m for m in model.modules() if not list(m.children()) and any(id(p) not in inside for p in m.parameters())]
    lm_head = model.get_output_embeddings()
    lm_flops = 2 * lm_head.weight.numel() if lm_head is not None else 0
    entry = [m for m in ends if isinstance(m, nn.Embedding)]
    exit_ = [m for m in ends if not isinstance(m, nn.Embedding)]
    rows = []
    for part, start, stop, more, side in (
        ("head", 0, first, entry, "local"),
        ("body", first, last, [], "host"),
        ("tail", last, len(layers), exit_, "local"),
    ):
        parameters, size_bytes = size([*layers[start:stop], *more])
        flops = sum(layer_flops(layer, model, context) for layer in layers[start:stop])
        rows.append(
            {
                "part": part,
                "side": side,
                "layers": "none" if start == stop else str(start) if stop - start == 1 else f"{start}-{stop - 1}",
                "parameters": parameters,
                "bytes": size_bytes,
                "flops_per_token": flops + (lm_flops if part == "tail" else 0),
            }
        )
    local = size([*layers[:first], *layers[last:], *ends])[1]
    table = pd.DataFrame(rows).set_index("part")
    table["memory_bytes"] = [local, table.loc["body", "bytes"], local]  # one local process holds head and tail
    return table
