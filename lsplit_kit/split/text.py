"""`split()` for language models: the library's own class, grafted, on which every option of generate() works."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from ..cache import adopt
from ..card import Card
from ..errors import UnsupportedOption
from ..wire.link import Link, named
from .call import read_call, refuse
from .graft import decoder_of, local_side
from .plan import SplitPlan
from .prompt import encode, text_options, token_ids
from .remote_layer import Remote
from .speculation import AT_WORK


class SplitMixin(Card):
    """What a split model has beside its library class: plan, link, strings for tokens, and a readable repr."""

    plan: SplitPlan
    remote: Remote

    def generate(self, inputs: Any = None, **options: Any) -> Any:
        """As the library's `generate`; a text, a list of texts or of chat messages gives the reply as text.

        With `return_dict_in_generate=True` the library's output object comes back whatever the prompt was.
        """
        if inputs is None or isinstance(inputs, (torch.Tensor, Mapping)):
            return super().generate(**token_ids(inputs, options))  # type: ignore[misc]
        tok: Any = getattr(self, "lsplit_tokenizer", lambda: None)()
        batch = encode(tok, inputs, options)
        out = super().generate(**batch, **text_options(options, tok))  # type: ignore[misc]
        if not isinstance(out, torch.Tensor):
            return out
        texts = tok.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        one = isinstance(inputs, str) or isinstance(inputs[0], Mapping)
        return texts[0] if one and len(texts) == 1 else texts

    def prepare_inputs_for_generation(self, *args: Any, past_key_values: Cache | None = None, **kwargs: Any) -> dict:
        """As the library's, with the Remote's slot in the cache before masks are made."""
        if isinstance(past_key_values, Cache):
            adopt(past_key_values, self.remote.index)
        return super().prepare_inputs_for_generation(*args, past_key_values=past_key_values, **kwargs)  # type: ignore[misc]

    def _get_candidate_generator(self, **settled: Any) -> Any:
        """The drafts of lk.speculate() where it is at work in this thread, else the library's own."""
        run = AT_WORK.get()
        if run is not None and run.owner.lm is self:
            return run.prepare(settled["input_ids"], settled["generation_config"])
        return super()._get_candidate_generator(**settled)  # type: ignore[misc]

    @property
    def link(self) -> Link:
        """The link to the body."""
        return self.remote.link

    def close(self) -> None:
        """End the link to the body; the model cannot run afterwards."""
        self.link.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def save_pretrained(self, *args: Any, **options: Any) -> None:
        """UnsupportedOption, always: the body is elsewhere, and its place in the file would be empty."""
        raise UnsupportedOption("A split model has no body to save; save the model it was made from.")

    push_to_hub = save_pretrained

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UnsupportedOption(
            "A split model holds a link and cannot be copied or pickled; split the model it was made from again."
        )

    def _card(self) -> tuple[str, dict[str, object]]:
        info, remote = self.link.info, self.remote
        return f"{type(self).__name__} cut in three", {
            "local": f"embedding, the first {self.plan.head} and the last {self.plan.tail} layers, norm, LM head",
            "body": f"layers {info.start} to {info.stop - 1} of {info.model}",
            "link": named(self.link),
            "up": remote.up.spec,
            "down": remote.down.spec,
            "cache": remote.policy,
        }


def split_text(
    model: PreTrainedModel, plan: SplitPlan, link: Link, policy: str, up: str, down: str, chunk: int | None = None
) -> PreTrainedModel:
    """Graft a Remote over `link` into a structural copy of `model`; the model itself is left as it was.

    chunk: positions a step carries at most; longer prompts go up in several steps, all under way at once.
    """
    base, name = decoder_of(model)
    start, stop = plan.cut(len(getattr(base, name)))
    remote = Remote(link, policy, up, down, chunk)
    grafted = local_side(model, start, stop, remote)
    _hook(grafted, remote, ends=plan.tail == 0)
    cls = getattr(model, "lsplit_class", type(model))  # a model of load_local has a class that refuses to run
    grafted.__class__ = type(cls.__name__, (SplitMixin, cls), {"__module__": cls.__module__})
    grafted.plan, grafted.remote = plan, remote
    return grafted


def _hook(model: PreTrainedModel, remote: Remote, ends: bool) -> None:
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
        call = read_call(given.get("attention_mask"), given.get("position_ids"), tokens.shape[0], tokens.shape[1], past)
        remote.current.call = call._replace(wanted=vars(remote.current).pop("wanted", None))
        return args, kwargs

    def read(module: nn.Module, args: tuple, kwargs: dict) -> None:
        refuse(kwargs, module.config)
        kept = kwargs.get("logits_to_keep")  # with no layer behind the body, nothing else reads a position
        whole = not ends or args or kwargs.get("labels") is not None or type(kept) is not int or kept < 1
        remote.current.wanted = None if whole else kept

    base.register_forward_pre_hook(note, with_kwargs=True)
    model.register_forward_pre_hook(read, with_kwargs=True)
