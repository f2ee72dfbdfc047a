"""The parts of emoji-ldm: a Stable Diffusion in miniature, 64 x 64 pixels, latents of 16 channels of 8 x 8."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tqdm import tqdm
from transformers.utils import logging

logging.set_verbosity_error()  # diffusers would warn that torchvision is missing, which nothing here needs

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402

TOKENS = 16  # longest prompt, start and end marks included
PREDICTION = "v_prediction"  # or "epsilon"


def new_vae() -> AutoencoderKL:
    """64 x 64 pixels to 16 channels of 8 x 8, and back."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=1.0,
    )


def encode(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """The latent means [n, 16, 8, 8] of pictures [n, 3, 64, 64]."""
    with torch.no_grad():
        return torch.cat([vae.encode(part).latent_dist.mean for part in tqdm(pixels.split(32), desc="latents")])


def normalise(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """The latents with mean 0 and deviation 1 in each channel, and the auto-encoder changed to make and read such ones.

    The pipeline knows one scaling factor for all channels and no shift, so both go into the 1 x 1 convolutions at the
    two ends of the code, exactly.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    n, into, out = len(mean), vae.quant_conv, vae.post_quant_conv
    with torch.no_grad():
        into.weight[:n] /= std[:, None, None, None]
        into.bias[:n] = (into.bias[:n] - mean) / std
        into.bias[n:] -= 2 * std.log()  # the second half says log variances
        out.bias += (out.weight[:, :, 0, 0] * mean).sum(1)
        out.weight *= std[None, :, None, None]
    return (latents - mean[:, None, None]) / std[:, None, None]


def new_tokenizer(said: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer with a vocabulary of its own, learnt from the captions."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(said, trainer)
    state = json.loads(bpe.to_str())["model"]
    vocab = state["vocab"]
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):  # any byte may end a word that no caption has
        vocab.setdefault(byte + "</w>", len(vocab))
    return CLIPTokenizer(vocab=vocab, merges=[tuple(m) for m in state["merges"]], model_max_length=TOKENS)


def kept_tokenizer(folder: Path, said: list[str]) -> CLIPTokenizer:
    """The tokenizer of `new_tokenizer`, made once and kept: the library breaks ties at random, so ids would differ."""
    if not (folder / "tokenizer.json").exists():
        new_tokenizer(said).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def new_denoiser(tokenizer: CLIPTokenizer) -> torch.nn.ModuleDict:
    """The U-Net, with cross-attention on all of its three levels, and the text encoder that is trained with it."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        projection_dim=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(128, 160, 160),
        layers_per_block=1,
        cross_attention_dim=192,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )
    return torch.nn.ModuleDict({"unet": unet, "text": CLIPTextModel(text)})


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=PREDICTION,
    )


def new_pipeline(vae: AutoencoderKL, parts: torch.nn.ModuleDict, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The parts as the pipeline that a reader will load."""
    pipe = StableDiffusionPipeline(
        vae, parts["text"], tokenizer, parts["unet"], new_scheduler(), None, None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tokens(tokenizer: CLIPTokenizer, said: list[str]) -> torch.Tensor:
    """Token ids [n, TOKENS]; raises ValueError when a caption is too long to be seen whole."""
    if max(len(ids) for ids in tokenizer(said).input_ids) > TOKENS:
        raise ValueError(f"a caption has more than {TOKENS} tokens")
    return tokenizer(said, padding="max_length", return_tensors="pt").input_ids
