"""What people hand to generate(): a text, texts, chat messages, a tokenizer's output, or token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import UnsupportedOption

_OURS = ("input_ids", "attention_mask", "inputs_embeds", "position_ids")
_DICT_ONLY = ("output_scores", "output_logits")


def token_ids(inputs: Tensor | Mapping | None, options: dict[str, Any]) -> dict[str, Any]:
    """The library's own arguments for token ids [B, T] or a tokenizer's output; UnsupportedOption for other shapes."""
    if isinstance(inputs, Mapping):
        given = {k: v for k, v in inputs.items() if k != "token_type_ids"}
        main = given.get("input_ids", given.get("inputs_embeds"))
        if not isinstance(main, Tensor):
            raise UnsupportedOption(
                "A dict for generate() holds input_ids as a tensor: tok(text, return_tensors='pt'); "
                "chat messages go into a list."
            )
        _no_clash(given, options, "The tokenizer's output")
        return {**given, **options}
    if isinstance(inputs, Tensor) and inputs.dim() != 2 and not inputs.is_floating_point():
        raise UnsupportedOption(
            f"Token ids have two dimensions, [rows, tokens], got {list(inputs.shape)}; for one row use ids[None]."
        )
    return {"inputs": inputs, **options}


def encode(tok: Any, inputs: Any, options: dict[str, Any]) -> dict[str, Tensor]:
    """Token ids and mask [B, T] of a text, several texts, a conversation or several; left-padded; UnsupportedOption."""
    several = isinstance(inputs, (list, tuple))
    if several and not inputs:
        raise UnsupportedOption("Nothing to generate from: the list of prompts is empty.")
    chat = isinstance(inputs, (list, tuple)) and not isinstance(inputs[0], str)
    talks = (inputs if isinstance(inputs[0], (list, tuple)) else [inputs]) if chat else []
    if not _texts(inputs) and not (chat and all(map(_messages, talks))):
        odd = next((x for x in inputs if not isinstance(x, str)), inputs) if several else inputs
        raise UnsupportedOption(
            "generate() takes a text, a list of texts, a list of chat messages {'role': ..., 'content': ...}, "
            f"or a tensor of token ids [rows, tokens], got {'a list with ' if several else ''}{type(odd).__name__}."
        )
    if tok is None:
        raise UnsupportedOption("This model came without a tokenizer; pass input_ids, or load it with lk.load().")
    if chat and not getattr(tok, "chat_template", None):
        raise UnsupportedOption("This model's tokenizer has no chat template; give the conversation as one text.")
    rows = len(talks) if chat else len(inputs) if several else 1
    if rows > 1 and tok.pad_token is None:
        raise UnsupportedOption(
            "Several prompts need padding, and this tokenizer has no padding token; set tok.pad_token = tok.eos_token."
        )
    _no_clash(_OURS, options, "A text")
    side, tok.padding_side = tok.padding_side, "left"
    form = {"return_tensors": "pt", "padding": rows > 1}
    try:
        if chat:
            batch = tok.apply_chat_template(talks, add_generation_prompt=True, return_dict=True, **form)
        else:
            batch = tok(inputs, **form)
    finally:
        tok.padding_side = side
    return {k: v for k, v in batch.items() if k != "token_type_ids"}


def text_options(options: dict[str, Any], tok: Any) -> dict[str, Any]:
    """The options as the library needs them when the prompt was text; UnsupportedOption for what would be lost."""
    config = options.get("generation_config")
    asked = [n for n in _DICT_ONLY if options.get(n)]
    if asked and not (options.get("return_dict_in_generate") or getattr(config, "return_dict_in_generate", None)):
        raise UnsupportedOption(f"{asked[0]} comes with return_dict_in_generate=True only; add it.")
    if options.get("stop_strings") or getattr(config, "stop_strings", None):
        return {"tokenizer": tok, **options}
    return options


def _texts(inputs: object) -> bool:
    return isinstance(inputs, str) or (
        isinstance(inputs, (list, tuple)) and all(isinstance(text, str) for text in inputs)
    )


def _messages(talk: object) -> bool:
    return (
        isinstance(talk, (list, tuple))
        and len(talk) > 0
        and all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in talk)
    )


def _no_clash(given: Any, options: dict[str, Any], what: str) -> None:
    for name in given:
        if options.get(name) is not None:
            raise UnsupportedOption(f"{what} brings its own {name}: leave {name}= out, or pass token ids only.")
