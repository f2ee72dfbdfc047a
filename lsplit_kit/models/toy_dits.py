"""Toy pipelines whose denoiser is a transformer, one short builder per family; toy_pipes draws their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lsplit_kit.models.toy_text_encoders import (
    LATENT_CHANNELS,
    TEXT_WIDTH,
    bert_encoder,
    byte_tokenizer,
    clip_encoder,
    clip_tokenizer,
    decoder_as_encoder,
    flow_vae,
    qwen_vl_encoder,
    t5_encoder,
    toy_vae,
)

_OPENED = "<bos> $A"
_HEADS = dict(attention_head_dim=16, num_attention_heads=2)
_LATENTS = dict(in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS)


def _flow(**options: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**options)


def _sd3(**options: Any) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    transformer = SD3Transformer2DModel(
        sample_size=16,
        num_layers=5,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * TEXT_WIDTH,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=16,
        in_channels=16,  # what its inpainting asks for
        out_channels=16,
        **options,
    )
    texts = [part for _ in range(2) for part in (clip_encoder(projected=True), clip_tokenizer())]
    return StableDiffusion3Pipeline(transformer, _flow(shift=3.0), flow_vae(channels=16), *texts, None, None)  # no T5


def _sd35() -> Any:
    return _sd3(dual_attention_layers=(0, 1), qk_norm="rms_norm")


def _flux() -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=3,
        num_single_layers=4,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
        **_HEADS,
    )
    pipe = FluxPipeline(
        scheduler=_flow(shift=3.0, use_dynamic_shifting=True),
        vae=flow_vae(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=byte_tokenizer(),
        transformer=transformer,
    )
    pipe.default_sample_size = 16  # not in the model's configuration
    return pipe


def _pixart_transformer() -> Any:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        sample_size=32,  # the smallest whose bins of sizes the pipeline knows: 256 pixels unless a call says otherwise
        num_layers=4,
        in_channels=LATENT_CHANNELS,
        out_channels=2 * LATENT_CHANNELS,  # learned sigma: the second half is dropped on the host
        cross_attention_dim=32,
        caption_channels=TEXT_WIDTH,
        **_HEADS,
    )


def _pixart() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline

    return PixArtAlphaPipeline(
        byte_tokenizer(), t5_encoder(), toy_vae(8), _pixart_transformer(), DPMSolverMultistepScheduler()
    )


def _pixart_sigma() -> Any:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline

    parts = byte_tokenizer(), t5_encoder(), toy_vae(8), _pixart_transformer()
    return PixArtSigmaPipeline(*parts, DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"))


def _sana() -> Any:
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    transformer = SanaTransformer2DModel(
        sample_size=16,  # the smallest whose bins of sizes the pipeline knows
        num_layers=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=TEXT_WIDTH,
        **_LATENTS,
        **_HEADS,
    )
    stages = dict(block_types=("ResBlock",) * 3 + ("EfficientViTBlock",), block_out_channels=(8, 8, 16, 16))
    stages |= dict(layers_per_block=(1,) * 4, qkv_multiscales=((), (), (), (5,)))
    vae = AutoencoderDC(
        latent_channels=LATENT_CHANNELS,
        attention_head_dim=8,
        **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in stages.items()},
    )
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, final_sigmas_type="zero"
    )
    return SanaPipeline(byte_tokenizer(_OPENED, length=2048), decoder_as_encoder("gemma2"), vae, transformer, scheduler)


def _auraflow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    transformer = AuraFlowTransformer2DModel(
        sample_size=64,
        num_mmdit_layers=2,
        num_single_dit_layers=3,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=32,
        pos_embed_max_size=32 * 32,
        **_HEADS,
    )
    # 1024 pixels unless a call says otherwise; so a large factor, for few latents.
    return AuraFlowPipeline(
        byte_tokenizer(), t5_encoder(multilingual=True), toy_vae(16), transformer, _flow(shift=1.73)
    )


def _lumina2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    transformer = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        hidden_size=32,
        num_layers=4,
        num_refiner_layers=1,
        num_attention_heads=4,
        num_kv_heads=2,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        cap_feat_dim=TEXT_WIDTH,
    )
    encoder, tokenizer = decoder_as_encoder("gemma2"), byte_tokenizer(_OPENED)
    return Lumina2Pipeline(transformer, _flow(shift=6.0), flow_vae(8), encoder, tokenizer)


def _hunyuandit() -> Any:
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline

    transformer = HunyuanDiT2DModel(
        sample_size=8,
        patch_size=4,
        in_channels=LATENT_CHANNELS,
        hidden_size=32,
        num_layers=6,  # the first two hand their output over the middle to the last two
        cross_attention_dim=TEXT_WIDTH,
        cross_attention_dim_t5=TEXT_WIDTH,
        pooled_projection_dim=32,
        **_HEADS,
    )
    return HunyuanDiTPipeline(
        vae=toy_vae(8, mid_block_add_attention=False),  # 128 x 128 latents unless a call says otherwise
        text_encoder=bert_encoder(),
        tokenizer=byte_tokenizer("<bos> $A <eos>"),
        transformer=transformer,
        scheduler=DDPMScheduler(beta_end=0.02, beta_schedule="scaled_linear", prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5_encoder(),
        tokenizer_2=byte_tokenizer(),
    )


def _cogview4() -> Any:
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel

    transformer = CogView4Transformer2DModel(
        sample_size=16,
        num_layers=4,
        text_embed_dim=TEXT_WIDTH,
        time_embed_dim=16,
        condition_dim=8,
        rope_axes_dim=(16, 16),
        **_LATENTS,
        **_HEADS,
    )
    scheduler = _flow(base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear")
    tokenizer = byte_tokenizer(_OPENED, side="left")
    return CogView4Pipeline(tokenizer, decoder_as_encoder("glm"), flow_vae(), transformer, scheduler)


def _chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    transformer = ChromaTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=3,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=16,
        approximator_hidden_dim=32,
        approximator_layers=2,
        **_HEADS,
    )
    pipe = ChromaPipeline(_flow(), flow_vae(), t5_encoder(), byte_tokenizer(), transformer)
    pipe.default_sample_size = 16
    return pipe


def _zimage() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=LATENT_CHANNELS,
        dim=32,
        n_layers=4,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=[4, 6, 6],
    )
    # 1024 pixels unless a call says otherwise, as AuraFlow.
    encoder, tokenizer = decoder_as_encoder("qwen3"), byte_tokenizer("$A")
    return ZImagePipeline(_flow(shift=3.0), flow_vae(16), encoder, tokenizer, transformer)


def _qwenimage() -> Any:
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel

    transformer = QwenImageTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=4,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(4, 6, 6),
        **_HEADS,
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )
    pipe = QwenImagePipeline(
        _flow(use_dynamic_shifting=True), vae, qwen_vl_encoder(), byte_tokenizer("$A"), transformer
    )
    pipe.default_sample_size = 16
    return pipe


DIT_PIPES: dict[str, Callable[[], Any]] = {
    "toy-sd3": _sd3,
    "toy-sd35": _sd35,
    "toy-flux": _flux,
    "toy-chroma": _chroma,
    "toy-pixart": _pixart,
    "toy-pixart-sigma": _pixart_sigma,
    "toy-sana": _sana,
    "toy-auraflow": _auraflow,
    "toy-lumina2": _lumina2,
    "toy-hunyuandit": _hunyuandit,
    "toy-cogview4": _cogview4,
    "toy-zimage": _zimage,
    "toy-qwenimage": _qwenimage,
}
