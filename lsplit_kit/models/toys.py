"""Toys: tiny models of many families with fixed random weights, for tests and lessons without downloads."""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lsplit_kit.errors import WeightsError
from lsplit_kit.models.home import publish, toys_home
from lsplit_kit.models.reader import MANIFEST, TensorFolder, read_manifest
from lsplit_kit.models.toy_tokenizer import VOCABULARY, toy_tokenizer

LAYERS, WIDTH, HEADS, KV_HEADS, WINDOW, POSITIONS = 6, 64, 4, 2, 8, 512
# The two kinds take turns, so that a cut anywhere has both kinds on some side.
MIXED = ["sliding_attention", "full_attention"] * (LAYERS // 2)

_TOKENS = dict(vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=2, use_cache=True)
_PLAIN = dict(
    hidden_size=WIDTH,
    intermediate_size=2 * WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    max_position_embeddings=POSITIONS,
)
_MODERN = dict(_PLAIN, num_key_value_heads=KV_HEADS)
_HEAD16 = dict(_MODERN, head_dim=WIDTH // HEADS)
_GPT2 = dict(
    n_embd=WIDTH,
    n_layer=LAYERS,
    n_head=HEADS,
    n_positions=POSITIONS,
    n_inner=2 * WIDTH,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
)
_EXPERTS = dict(num_local_experts=4, num_experts_per_tok=2)
_PARTIAL = dict(rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})


@dataclass(frozen=True)
class Toy:
    """One toy: the library's model type, the trait that makes the family worth a test, its configuration."""

    model_type: str
    trait: str
    options: dict[str, Any] = field(default_factory=dict)


TOYS: dict[str, Toy] = {
    "toy-llama": Toy("llama", "rotary", _HEAD16),
    "toy-gpt2": Toy("gpt2", "learned positions", _GPT2),
    "toy-opt": Toy(
        "opt",
        "learned positions",
        dict(
            hidden_size=WIDTH,
            ffn_dim=2 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            dropout=0.0,
            max_position_embeddings=POSITIONS,
            word_embed_proj_dim=WIDTH,
            init_std=0.2,
        ),
    ),
    "toy-gemma": Toy("gemma", "scaled embeddings", _HEAD16),
    "toy-gemma2": Toy(
        "gemma2",
        "sliding windows mixed with full attention",
        dict(_HEAD16, sliding_window=WINDOW, layer_types=MIXED, query_pre_attn_scalar=16, initializer_range=0.08),
    ),
    "toy-gemma3": Toy(
        "gemma3_text",
        "sliding windows mixed with full attention",
        dict(_HEAD16, sliding_window=WINDOW, layer_types=MIXED, query_pre_attn_scalar=16, initializer_range=0.08),
    ),
    "toy-mistral": Toy("mistral", "sliding windows", dict(_HEAD16, sliding_window=WINDOW)),
    "toy-qwen2": Toy(
        "qwen2",
        "sliding windows mixed with full attention",
        dict(_MODERN, use_sliding_window=True, sliding_window=WINDOW, layer_types=MIXED),
    ),
    "toy-qwen3": Toy("qwen3", "rotary", _HEAD16),
    "toy-mixtral": Toy("mixtral", "mixture of experts", dict(_HEAD16, **_EXPERTS)),
    "toy-phi": Toy("phi", "parallel attention", dict(_PLAIN, **_PARTIAL)),
    "toy-phi3": Toy("phi3", "rotary", dict(_MODERN, original_max_position_embeddings=POSITIONS)),
    "toy-gptneox": Toy("gpt_neox", "partial rotary", dict(_PLAIN, **_PARTIAL)),
    "toy-gptj": Toy("gptj", "layers return tuples", dict(_GPT2, rotary_dim=8)),
    "toy-gpt-neo": Toy(
        "gpt_neo",
        "layers return tuples",
        dict(
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_layers=LAYERS,
            num_heads=HEADS,
            window_size=WINDOW,
            attention_types=[[["global", "local"], LAYERS // 2]],
            max_position_embeddings=POSITIONS,
            resid_dropout=0.0,
            embed_dropout=0.0,
            attention_dropout=0.0,
        ),
    ),
    "toy-bloom": Toy("bloom", "ALiBi", dict(hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS, initializer_range=0.4)),
    "toy-mpt": Toy(
        "mpt", "ALiBi", dict(d_model=WIDTH, n_layers=LAYERS, n_heads=HEADS, expansion_ratio=2, max_seq_len=POSITIONS)
    ),
    "toy-falcon": Toy(
        "falcon",
        "parallel attention",
        dict(
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_kv_heads=KV_HEADS,
            new_decoder_architecture=True,
            max_position_embeddings=POSITIONS,
            ffn_hidden_size=2 * WIDTH,
        ),
    ),
    "toy-cohere": Toy("cohere", "parallel attention", dict(_MODERN, logit_scale=1.0)),
    "toy-cohere2": Toy(
        "cohere2",
        "sliding windows mixed with full attention",
        dict(_HEAD16, logit_scale=1.0, sliding_window=WINDOW, layer_types=MIXED),
    ),
    "toy-granite": Toy(
        "granite",
        "embedding and residual multipliers",
        dict(_MODERN, embedding_multiplier=3.0, residual_multiplier=0.5, attention_multiplier=0.25, logits_scaling=2.0),
    ),
    "toy-olmo2": Toy("olmo2", "rotary", _MODERN),
    "toy-olmo3": Toy(
        "olmo3", "sliding windows mixed with full attention", dict(_MODERN, sliding_window=WINDOW, layer_types=MIXED)
    ),
    "toy-starcoder2": Toy(
        "starcoder2",
        "sliding windows",
        dict(_MODERN, sliding_window=WINDOW, residual_dropout=0.0, embedding_dropout=0.0),
    ),
    "toy-stablelm": Toy("stablelm", "partial rotary", dict(_MODERN, **_PARTIAL)),
    "toy-smollm3": Toy("smollm3", "some layers without positions", dict(_MODERN, no_rope_layers=[1, 1, 0] * 2)),
    "toy-glm4": Toy("glm4", "partial rotary", dict(_HEAD16, **_PARTIAL)),
    "toy-gpt-oss": Toy(
        "gpt_oss",
        "mixture of experts",
        dict(
            _HEAD16,
            sliding_window=WINDOW,
            layer_types=MIXED,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            **_EXPERTS,
        ),
    ),
}


def toy_names() -> list[str]:
    """Names of all toys."""
    return list(TOYS)


def toy_trait(name: str) -> str:
    """What makes this toy's family differ from a plain decoder."""
    return _toy(name).trait


def toy_config(name: str) -> Any:
    """A fresh library configuration of the toy: 6 layers, width 64, 4 heads, vocabulary 384."""
    from transformers import AutoConfig

    toy = _toy(name)
    # At the libraries' 0.02 six narrow layers hardly change their input, and all logits look alike.
    options = {"initializer_range": 0.2, **_TOKENS, **toy.options}
    return AutoConfig.for_model(toy.model_type, **copy.deepcopy(options))


def build_toy(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The toy in eval mode: the same weights in every process, the global random state untouched."""
    from transformers import AutoModelForCausalLM

    config = toy_config(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():  # norms of one and biases of zero would hide a layer applied in the wrong place
            for label, parameter in model.named_parameters():
                if parameter.ndim == 1 or label.endswith("bias"):
                    parameter.add_(torch.randn(parameter.shape) * 0.05)
    return model.to(dtype).eval()


def toy_folder(name: str) -> Path:
    """The toy saved on disk with its tokenizer and a manifest, written first when needed."""

    def fill(folder: Path) -> None:
        # The names that the model has in memory; on the hub some families split their experts.
        build_toy(name).save_pretrained(folder, save_original_format=False)
        toy_tokenizer().save_pretrained(folder)
        TensorFolder(folder).write_manifest(model=name)

    def complete(folder: Path) -> bool:
        try:
            return read_manifest(folder / MANIFEST).get("model") == name and bool(TensorFolder(folder).names)
        except WeightsError:
            return False

    _toy(name)
    return publish(toys_home() / f"{name}-{_kit_version()}", fill, complete)


@cache
def _kit_version() -> str:
    try:
        return version("lsplit-kit")
    except PackageNotFoundError:
        return "dev"


def _toy(name: str) -> Toy:
    if name not in TOYS:
        raise WeightsError(f"There is no toy named {name!r}; the toys are {', '.join(TOYS)}.")
    return TOYS[name]
