"""Tiny text encoders and autoencoders of the toy pipelines; the byte-level tokenizers take every text."""

from __future__ import annotations

from typing import Any

from lsplit_kit.models.toy_tokenizer import VOCABULARY, toy_tokenizer

TEXT_WIDTH = 32
LATENT_CHANNELS = 4
_SMALL = dict(num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)


def clip_tokenizer() -> Any:
    """CLIPTokenizer without merges: one token per byte, 77 tokens, the last byte of a word with </w>."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(letter + "</w>" for letter in alphabet)]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def clip_encoder(projected: bool = False, width: int = TEXT_WIDTH) -> Any:
    """CLIP text model of 2 layers, with a projection (text_embeds) when the pipeline reads one."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=2 + 2 * 256,
        hidden_size=width,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **_SMALL,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def byte_tokenizer(template: str = "$A <eos>", length: int = 512, side: str = "right") -> Any:
    """The toys' byte tokenizer with the ends of this family: T5 closes a text, Gemma opens one (`<bos> $A`)."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = toy_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    tokenizer.padding_side, tokenizer.model_max_length = side, length
    return tokenizer


def t5_encoder(multilingual: bool = False) -> Any:
    """T5 encoder of 2 layers with gated feed-forwards; multilingual: UMT5, a position bias in every layer."""
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    options = dict(
        vocab_size=VOCABULARY,
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=2,
    )
    return UMT5EncoderModel(UMT5Config(**options)) if multilingual else T5EncoderModel(T5Config(**options))


def decoder_as_encoder(model_type: str) -> Any:
    """A decoder of 2 layers (gemma2, glm, qwen3, ...) without its head: newer pipelines read its hidden states."""
    from transformers import AutoConfig, AutoModel

    options = dict(vocab_size=VOCABULARY, hidden_size=TEXT_WIDTH, num_key_value_heads=2, head_dim=8, **_SMALL)
    ends = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return AutoModel.from_config(AutoConfig.for_model(model_type, **options, **ends))


def bert_encoder() -> Any:
    """BERT of 2 layers."""
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(vocab_size=VOCABULARY, hidden_size=TEXT_WIDTH, **_SMALL))


def qwen_vl_encoder() -> Any:
    """Qwen2.5-VL of 2 layers, with the image half that a text-to-image pipeline never runs."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    text = dict(vocab_size=VOCABULARY, hidden_size=TEXT_WIDTH, num_key_value_heads=4, rope_parameters=rope, **_SMALL)
    ends = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=TEXT_WIDTH)
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config={**text, **ends}, vision_config=vision))


def clip_image_encoder() -> Any:
    """CLIP vision model of 2 layers; Kandinsky's prior embeds a black picture with it as the empty prompt."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(hidden_size=TEXT_WIDTH, projection_dim=TEXT_WIDTH, image_size=32, patch_size=16, **_SMALL)
    return CLIPVisionModelWithProjection(config)


def toy_vae(factor: int = 4, channels: int = LATENT_CHANNELS, **options: Any) -> Any:
    """AutoencoderKL whose pictures are `factor` times as wide as their latents."""
    from diffusers import AutoencoderKL

    blocks = factor.bit_length()
    return AutoencoderKL(
        block_out_channels=(8, *(16,) * (blocks - 1)),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=channels,
        norm_num_groups=4,
        **options,
    )


def flow_vae(factor: int = 4, channels: int = LATENT_CHANNELS) -> Any:
    """The newer autoencoder: its latents are shifted, and no 1x1 convolutions surround them."""
    bare = dict(use_quant_conv=False, use_post_quant_conv=False)
    return toy_vae(factor, channels, shift_factor=0.06, scaling_factor=1.5, **bare)
