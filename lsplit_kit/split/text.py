"""`split()` for language models: the library's own class, grafted, on which every option of generate() works."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from ..cache import adopt
from ..card import Card
from ..errors import UnsupportedOption
from ..wire.link import Link
from .call import read_call, refuse
from .graft import decoder_of, local_side
from .plan import SplitPlan
from .remote_layer import Remote


class SplitMixin(Card):
    """What a split model has beside its library class: plan, link, strings for tokens, and a readable repr."""

    plan: SplitPlan
    remote: Remote

    def generate(self, inputs: Any = None, **options: Any) -> Any:
        """As the library's `generate`; a string or a list of strings gives the reply as text."""
        if isinstance(inputs, (list, tuple)) and not inputs:
            raise UnsupportedOption("Nothing to generate from: the list of prompts is empty.")
        if not (
            isinstance(inputs, str) or (isinstance(inputs, (list, tuple)) and inputs and isinstance(inputs[0], str))
        ):
            return super().generate(inputs, **options)  # type: ignore[misc]
        tok = getattr(self, "lsplit_tokenizer", lambda: None)()
        if tok is None:
            raise UnsupportedOption("This model came without a tokenizer; pass input_ids, or load it with lk.load().")
        side, tok.padding_side = tok.padding_side, "left"
        try:
            batch = tok(inputs, return_tensors="pt", padding=not isinstance(inputs, str))
        finally:
            tok.padding_side = side
        batch.pop("token_type_ids", None)
        ids = super().generate(**batch, **options)  # type: ignore[misc]
        ids = ids if isinstance(ids, torch.Tensor) else ids.sequences
        texts = tok.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return texts[0] if isinstance(inputs, str) and len(texts) == 1 else texts

    def prepare_inputs_for_generation(self, *args: Any, past_key_values: Cache | None = None, **kwargs: Any) -> dict:
        """As the library's, with the Remote's slot in the cache before masks are made."""
        if isinstance(past_key_values, Cache):
            adopt(past_key_values, self.remote.index)
        return super().prepare_inputs_for_generation(*args, past_key_values=past_key_values, **kwargs)  # type: ignore[misc]

    @property
    def link(self) -> Link:
        """The link to the body."""
        return self.remote.link

    def close(self) -> None:
        """End the link to the body; the model cannot run afterwards."""
        self.link.close()

    def _card(self) -> tuple[str, dict[str, object]]:
        info, remote = self.link.info, self.remote
        return f"{type(self).__name__} cut in three", {
            "local": f"embedding, the first {self.plan.head} and the last {self.plan.tail} layers, norm, LM head",
            "body": f"layers {info.start} to {info.stop - 1} of {info.model}",
            "link": getattr(self.link, "address", None) or getattr(self.link, "name", type(self.link).__name__),
            "up": remote.up.spec,
            "down": remote.down.spec,
            "cache": remote.policy,
        }


def split_text(model: PreTrainedModel, plan: SplitPlan, link: Link, policy: str, up: str, down: str) -> PreTrainedModel:
    """Graft a Remote over `link` into a structural copy of `model`; the model itself is left as it was."""
    base, name = decoder_of(model)
    start, stop = plan.cut(len(getattr(base, name)))
    remote = Remote(link, policy, up, down)
    remote.value_bytes = model.dtype.itemsize
    grafted = local_side(model, start, stop, remote)
    _hook(grafted, remote)
    grafted.__class__ = type(type(model).__name__, (SplitMixin, type(model)), {"__module__": type(model).__module__})
    grafted.plan, grafted.remote = plan, remote
    return grafted


def _hook(model: PreTrainedModel, remote: Remote) -> None:
    base, _ = decoder_of(model)
    signature = inspect.signature(base.forward)

    def note(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        given = signature.bind(*args, **kwargs).arguments
        refuse({**given.get("kwargs", {}), **given}, module.config)
        tokens = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
        if tokens is None or tokens.shape[1] == 0:
            raise UnsupportedOption("Nothing to run: give at least one token.")
        cache = given.get("past_key_values")
        past = 0
        if isinstance(cache, Cache):
            past = adopt(cache, remote.index).get_seq_length()
        elif cache is None and (module.config.use_cache if given.get("use_cache") is None else given["use_cache"]):
            kwargs = {**kwargs, "past_key_values": DynamicCache(config=module.config)}
            adopt(kwargs["past_key_values"], remote.index)
        remote.current.call = read_call(
            given.get("attention_mask"), given.get("position_ids"), tokens.shape[0], tokens.shape[1], past
        )
        return args, kwargs

    base.register_forward_pre_hook(note, with_kwargs=True)
    model.register_forward_pre_hook(lambda m, a, k: refuse(k, m.config), with_kwargs=True)
