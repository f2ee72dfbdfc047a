"""Toy pipelines: tiny text-to-image pipelines of many families with fixed random weights, without downloads."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from lsplit_kit.errors import WeightsError
from lsplit_kit.models.toy_dits import DIT_PIPES
from lsplit_kit.models.toy_text_encoders import (
    LATENT_CHANNELS,
    TEXT_WIDTH,
    byte_tokenizer,
    clip_encoder,
    clip_image_encoder,
    clip_tokenizer,
    t5_encoder,
    toy_vae,
)

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
_UNCHECKED = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def toy_pipe_names() -> list[str]:
    """Names of all toy pipelines."""
    return list(TOY_PIPES)


def build_toy_pipe(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> DiffusionPipeline:
    """The toy pipeline in eval mode: the same weights for the same seed, the global random state untouched."""
    if name not in TOY_PIPES:
        raise WeightsError(f"There is no toy pipeline named {name!r}; they are {', '.join(TOY_PIPES)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()) + seed)
        pipe = TOY_PIPES[name]()
        for _, part in sorted(pipe.components.items()):
            if isinstance(part, torch.nn.Module):
                _draw(part)
                torch.nn.Module.to(part, dtype).eval()  # the libraries' own to() warns about every cast
    pipe.set_progress_bar_config(disable=True)
    return pipe


def toy_pipe_call(name: str) -> dict[str, Any]:
    """Arguments besides the prompt that a call needs (inpainting), or that keep its image at most 128 pixels wide."""
    if name == "toy-sd-inpaint":
        return dict(image=torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64), mask_image=torch.ones(1, 1, 64, 64))
    return dict(_SMALL_CALLS.get(name, {}))


@torch.no_grad()
def _draw(part: torch.nn.Module) -> None:
    """Matrices of unit gain, and noise on norms and biases: a zero-initialised one would switch its block off."""
    for parameter in part.parameters():
        noise = torch.randn(parameter.shape)
        if parameter.ndim > 1:
            parameter.copy_(noise * (parameter.shape[0] / parameter.numel()) ** 0.5)
        else:
            parameter.add_(noise * 0.05)


def _sd_unet(**options: Any) -> Any:
    from diffusers import UNet2DConditionModel

    defaults = dict(
        sample_size=16,
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    return UNet2DConditionModel(**{**defaults, **options})


def _ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **_BETAS)


def _sd() -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(toy_vae(), clip_encoder(), clip_tokenizer(), _sd_unet(), _ddim(), **_UNCHECKED)


def _sd_inpaint() -> Any:
    from diffusers import StableDiffusionInpaintPipeline

    unet = _sd_unet(in_channels=2 * LATENT_CHANNELS + 1)  # the noisy latents, the mask, the masked picture's latents
    return StableDiffusionInpaintPipeline(toy_vae(), clip_encoder(), clip_tokenizer(), unet, _ddim(), **_UNCHECKED)


def _sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    unet = _sd_unet(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        cross_attention_dim=2 * TEXT_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,  # six sizes and the pooled text
    )
    return StableDiffusionXLPipeline(
        vae=toy_vae(),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **_BETAS),
        add_watermarker=False,
    )


def _lcm() -> Any:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    unet = _sd_unet(time_cond_proj_dim=16)  # the guidance scale is an input of the U-Net
    return LatentConsistencyModelPipeline(
        toy_vae(), clip_encoder(), clip_tokenizer(), unet, LCMScheduler(**_BETAS), **_UNCHECKED
    )


def _scale_shift_unet(**options: Any) -> Any:
    return _sd_unet(
        block_out_channels=(16, 32, 32),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        layers_per_block=1,
        encoder_hid_dim=TEXT_WIDTH,
        resnet_time_scale_shift="scale_shift",
        **options,
    )


def _if() -> Any:
    from diffusers import DDPMScheduler, IFPipeline

    unet = _scale_shift_unet(
        sample_size=32,
        in_channels=3,  # pixels: no autoencoder
        out_channels=6,  # and a variance for each
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
    )
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", thresholding=True, variance_type="learned_range")
    return IFPipeline(byte_tokenizer(length=77), t5_encoder(), unet, scheduler, watermarker=None, **_UNCHECKED)


def _kandinsky() -> Any:
    from diffusers import DDPMScheduler, KandinskyV22CombinedPipeline, PriorTransformer, UnCLIPScheduler, VQModel

    unet = _scale_shift_unet(out_channels=8, addition_embed_type="image", encoder_hid_dim_type="image_proj")
    movq = VQModel(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
        latent_channels=LATENT_CHANNELS,
        vq_embed_dim=LATENT_CHANNELS,
        num_vq_embeddings=16,
        norm_num_groups=8,
        norm_type="spatial",
    )
    prior = PriorTransformer(num_attention_heads=2, attention_head_dim=16, num_layers=2, embedding_dim=TEXT_WIDTH)
    return KandinskyV22CombinedPipeline(
        unet=unet,
        scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.012, variance_type="learned_range", clip_sample=False),
        movq=movq,
        prior_prior=prior,
        prior_image_encoder=clip_image_encoder(),
        prior_text_encoder=clip_encoder(projected=True),
        prior_tokenizer=clip_tokenizer(),
        prior_scheduler=UnCLIPScheduler(prediction_type="sample", clip_sample_range=10.0),
        prior_image_processor=None,
    )


TOY_PIPES: dict[str, Callable[[], Any]] = {
    "toy-sd": _sd,
    "toy-sd-inpaint": _sd_inpaint,
    "toy-sdxl": _sdxl,
    "toy-lcm": _lcm,
    "toy-if": _if,
    "toy-kandinsky": _kandinsky,
    **DIT_PIPES,
}

_PLAIN_CAPTION = dict(clean_caption=False)  # cleaning needs a library that is not here, and says so at every call
_UNBINNED = dict(height=64, width=64, use_resolution_binning=False)
_SMALL_CALLS: dict[str, dict[str, Any]] = {
    "toy-kandinsky": dict(height=64, width=64, prior_num_inference_steps=2),
    "toy-pixart": _UNBINNED | _PLAIN_CAPTION,
    "toy-pixart-sigma": _UNBINNED | _PLAIN_CAPTION,
    "toy-sana": _UNBINNED | _PLAIN_CAPTION | dict(complex_human_instruction=None),
    "toy-hunyuandit": dict(height=128, width=128, use_resolution_binning=False),
    "toy-auraflow": dict(height=128, width=128),  # 8 x 8 latents
    "toy-zimage": dict(height=128, width=128),
}
