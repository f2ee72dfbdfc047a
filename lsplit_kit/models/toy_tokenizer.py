"""The byte-level tokenizer of all toys: one token per UTF-8 byte, so every text works, the empty one too."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

VOCABULARY = 384
SPECIALS = ("<pad>", "<bos>", "<eos>")  # ids 0, 1, 2; bytes follow from 3
_CHAT = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@cache
def _json() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    # A toy may produce any id: the rest decodes to pairs of letters, and encoding never produces it.
    pairs = ("".join(pair) for pair in product("etaoinshrdlu", repeat=2))
    pieces += [next(pairs) for _ in range(VOCABULARY - len(pieces))]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
    )
    return tokenizer.to_str()


def toy_tokenizer() -> Any:
    """A fresh PreTrainedTokenizerFast: <bos>, then one token per byte of the text; pads on the left."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_json()),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        chat_template=_CHAT,
    )
