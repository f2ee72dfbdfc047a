"""Graft, never copy: the library's own model object with some sub-modules replaced.

Both sides start from a structural copy that shares every tensor with the model it came from. The local side puts the
Remote where the body's layers were; the host's side keeps only those layers, runs the same base class on zeros and
feeds the first of them the tensor that came up. Nothing here re-writes a forward pass.
"""

from __future__ import annotations

import copy
import inspect
import re

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from ..errors import UnsupportedModel


def decoder_of(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """The module that walks the decoder layers, and the name of its list; UnsupportedModel says why there is none."""
    family = model.config.model_type
    if model.config.is_encoder_decoder:
        raise UnsupportedModel(f"{family} is an encoder-decoder: its decoder reads the encoder at every layer.")
    config = model.config.get_text_config(decoder=True)
    kinds = {str(kind) for kind in getattr(config, "layer_types", None) or ()}
    state = {k for k in kinds if not k.endswith("attention") or k.startswith("linear")}
    if getattr(model, "_is_stateful", False) or state:
        raise UnsupportedModel(
            f"{family} keeps a recurrent state ({', '.join(sorted(state)) or 'state space'}), which cannot be cut back "
            "to an earlier position; take a family whose layers all use attention."
        )
    if getattr(config, "num_kv_shared_layers", 0):
        raise UnsupportedModel(f"{family} shares keys and values between layers on both sides of a cut.")
    base = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    base = base if base is not None else model.base_model
    for name, child in base.named_children():
        if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers:
            return base, name
    raise UnsupportedModel(
        f"{family}: no list of {config.num_hidden_layers} decoder layers found in {type(base).__name__}."
    )


def twin(module: nn.Module) -> nn.Module:
    """A structural copy that shares storage: new modules and config, the same tensors.

    `requires_grad` is kept as it was, for torch's matmul folds differently with and without it: other last bits.
    """
    memo: dict[int, object] = {}
    for p in module.parameters():
        memo[id(p)] = nn.Parameter(p.detach(), requires_grad=p.requires_grad)
    for b in module.buffers():
        memo[id(b)] = b
    return copy.deepcopy(module, memo)


def recount(layers: nn.ModuleList) -> None:
    """Number layers by list position: `layer_idx` is the cache slot each one writes."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            for name in ("layer_idx", "layer_id"):
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, index)


def resize(config: PretrainedConfig, kept: list[int | None]) -> None:
    """Make the config describe the kept layers; None is the Remote, a full-attention layer for masks and caches."""
    config.num_hidden_layers = len(kept)
    for name in ("layer_types", "mlp_layer_types", "attention_layers", "no_rope_layers"):
        old = getattr(config, name, None)
        if isinstance(old, (list, tuple)):
            filler = {"layer_types": "full_attention"}.get(name, old[0])
            setattr(config, name, [filler if i is None else old[i] for i in kept])


def local_side(model: PreTrainedModel, start: int, stop: int, remote: nn.Module) -> PreTrainedModel:
    """The model with layers[start:stop] replaced by `remote`, sharing all other tensors with `model`."""
    grafted = twin(model)
    base, name = decoder_of(grafted)
    layers = list(getattr(base, name))
    remote.take_convention(layers[start], start, reads_tuples(base))
    kept = nn.ModuleList([*layers[:start], remote, *layers[stop:]])
    recount(kept)
    setattr(base, name, kept)
    numbers = [*range(start), None, *range(stop, len(layers))]
    for config in {id(c): c for c in (grafted.config.get_text_config(decoder=True), base.config)}.values():
        resize(config, numbers)
    return grafted.eval()


def reads_tuples(base: nn.Module) -> bool:
    """Whether the base class takes the first item of what its layers return (their annotations are not reliable)."""
    return re.search(r"(layer_|block_)?outputs?\[0\]", inspect.getsource(type(base).forward)) is not None


class Neutral(nn.Module):
    """Stands for what the host must not hold: an embedding becomes a zero that broadcasts, all else passes through."""

    def __init__(self, replaced: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.embeds = dtype, isinstance(replaced, nn.Embedding)
        self.weight = torch.empty(0, dtype=dtype)  # some bases ask an embedding for its dtype and device

    def forward(self, value: Tensor, *args: object, **kwargs: object) -> Tensor:
        """The value given, or zero."""
        return torch.zeros((), dtype=self.dtype) if self.embeds else value


class Entry(nn.Module):
    """The first body layer: computes on the tensor that came up, whatever the base class made of its zeros."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.received: Tensor | None = None
        for name in ("attention_type", "is_sliding", "layer_type", "layer_idx", "use_moe"):  # bases look at these
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object) -> object:
        """As the layer, but on the received tensor [B, T, d]."""
        return self.layer(self.received, *args, **kwargs)


def body_side(model: PreTrainedModel, start: int, stop: int) -> nn.Module:
    """The base class holding only layers[start:stop]; every other sub-module with weights is neutral."""
    base, name = decoder_of(twin(model))
    layers = list(getattr(base, name))[start:stop]
    dtype = next(layers[0].parameters()).dtype
    for child_name, child in list(base.named_children()):
        # a norm without weights (olmo) would be applied twice as well
        if child_name != name and (list(child.parameters()) or type(child).__name__.endswith("Norm")):
            setattr(base, child_name, Neutral(child, dtype))
    recount(nn.ModuleList(layers))
    layers[0] = Entry(layers[0])
    setattr(base, name, nn.ModuleList(layers))
    resize(base.config, list(range(start, stop)))
    return base.eval()


def head_side(model: PreTrainedModel, depth: int) -> nn.Module:
    """The base class with its first `depth` layers and no norm behind them: token ids in, hidden tensors out."""
    base, name = decoder_of(twin(model))
    for child_name, child in list(base.named_children()):
        if type(child).__name__.endswith("Norm") and "embed" not in child_name:  # bloom has one behind its embedding
            setattr(base, child_name, nn.Identity())
    setattr(base, name, getattr(base, name)[:depth])
    resize(base.config, list(range(depth)))
    return base.eval()
