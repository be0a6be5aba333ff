"""Tiny diffusers video pipelines without text encoders: the prompt comes in as embeddings."""

from collections.abc import Callable
from typing import Any

import diffusers
import tiny_calls
import transformers
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from tiny_models import randomise, tiny_model
from tiny_vae import without_vae
from transformers import CLIPImageProcessorPil

_NO_TEXT = {"tokenizer": None, "text_encoder": None}


def _wan_vae(**more: Any) -> diffusers.AutoencoderKLWan:
    """A tiny VAE that scales by 4 in time and 8 in space."""
    config: dict[str, Any] = {
        "base_dim": 3,
        "z_dim": 4,
        "dim_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [False, True, True],
        "latents_mean": [0.0] * 4,
        "latents_std": [1.0] * 4,
    }
    return randomise(diffusers.AutoencoderKLWan(**{**config, **more}), 1).eval().requires_grad_(False)


def _wan_vae_of_5b() -> diffusers.AutoencoderKLWan:
    """The high-compression VAE of Wan 2.2 5B, which scales by 16."""
    return _wan_vae(
        z_dim=48,
        in_channels=12,
        out_channels=12,
        is_residual=True,
        patch_size=2,
        latents_mean=[0.0] * 48,
        latents_std=[1.0] * 48,
        scale_factor_spatial=16,
    )


def _wan() -> diffusers.DiffusionPipeline:
    return diffusers.WanPipeline(
        **_NO_TEXT,
        vae=_wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_model("wan"),
    )


def _wan22() -> diffusers.DiffusionPipeline:
    """Wan 2.2: one denoiser for the noisy steps, one for the rest."""
    return diffusers.WanPipeline(
        **_NO_TEXT,
        vae=_wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_model("wan"),
        transformer_2=tiny_model("wan", seed=1),
        boundary_ratio=0.6,
    )


def _wan22_low() -> diffusers.DiffusionPipeline:
    """Wan 2.2 with its low-noise denoiser alone; this scheduler starts below the boundary."""
    return diffusers.WanPipeline(
        **_NO_TEXT,
        vae=_wan_vae(),
        scheduler=diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        transformer=None,
        transformer_2=tiny_model("wan", seed=1),
        boundary_ratio=1.0,
    )


def _wan_ti2v() -> diffusers.DiffusionPipeline:
    """Wan 2.2 5B: one timestep per token."""
    return diffusers.WanPipeline(
        **_NO_TEXT,
        vae=_wan_vae_of_5b(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_model("wan_ti2v"),
        expand_timesteps=True,
    )


def _wan_vace() -> diffusers.DiffusionPipeline:
    return diffusers.WanVACEPipeline(
        **_NO_TEXT,
        vae=_wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_model("wan_vace"),
    )


def _image_encoder(kind: str, size: int = 4, width: int = 12) -> Any:
    """A tiny CLIP for pictures, for pipelines that insist on seeing one."""
    config = transformers.CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=size,
        patch_size=size // 2,
        projection_dim=16,
    )
    return randomise(getattr(transformers, kind)(config), 2).eval().requires_grad_(False)


def _wan_animate() -> diffusers.DiffusionPipeline:
    return diffusers.WanAnimatePipeline(
        **_NO_TEXT,
        image_encoder=_image_encoder("CLIPVisionModel"),
        image_processor=CLIPImageProcessorPil(crop_size=4, size=4),
        vae=_wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_model("wan_animate"),
    )


def ltx2_connectors(**more: Any) -> LTX2TextConnectors:
    """The tiny part of LTX-2 that makes a video's and an audio's prompt of one."""
    config: dict[str, Any] = {
        "caption_channels": 12,
        "text_proj_in_factor": 1,
        "connector_rope_base_seq_len": 32,
        "rope_double_precision": False,
    }
    for stream in ("video", "audio"):
        config[f"{stream}_connector_num_attention_heads"] = 2
        config[f"{stream}_connector_attention_head_dim"] = 6
        config[f"{stream}_connector_num_layers"] = 1
        config[f"{stream}_connector_num_learnable_registers"] = None
    return randomise(LTX2TextConnectors(**{**config, **more}), 3).eval().requires_grad_(False)


def ltx2_vaes() -> dict[str, Any]:
    """The video VAE scales by 2 in time and 16 in space, the audio VAE by 4 in both."""
    video = diffusers.AutoencoderKLLTX2Video(
        latent_channels=8,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=8,
    )
    audio = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4,
        ch_mult=(1,),
        num_res_blocks=1,
        resolution=32,
        latent_channels=2,
        mel_bins=8,
    )
    return {
        name: randomise(vae, 1).eval().requires_grad_(False) for name, vae in (("vae", video), ("audio_vae", audio))
    }


def _ltx2() -> diffusers.DiffusionPipeline:
    return diffusers.LTX2Pipeline(
        **_NO_TEXT,
        **ltx2_vaes(),
        vocoder=None,
        connectors=ltx2_connectors(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_model("ltx2"),
    )


def _animatediff() -> diffusers.DiffusionPipeline:
    return diffusers.AnimateDiffPipeline(
        **_NO_TEXT,
        vae=None,
        unet=tiny_model("animatediff"),
        motion_adapter=None,
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
    )


def _svd() -> diffusers.DiffusionPipeline:
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, sample_size=64
    )
    return diffusers.StableVideoDiffusionPipeline(
        vae=randomise(vae, 1).eval().requires_grad_(False),
        image_encoder=_image_encoder("CLIPVisionModelWithProjection", size=64),
        unet=tiny_model("svd"),
        scheduler=diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"),
        feature_extractor=CLIPImageProcessorPil(),
    )


def _kandinsky5() -> diffusers.DiffusionPipeline:
    return without_vae("Kandinsky5T2VPipeline", "kandinsky5", "text_encoder_2", "tokenizer_2")


def hunyuan_video15_parts() -> dict[str, Any]:
    """All but the transformer; the VAE scales by 2 in time and 4 in space."""
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    return {
        **_NO_TEXT,
        "text_encoder_2": None,
        "tokenizer_2": None,
        "vae": randomise(vae, 1).eval().requires_grad_(False),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "guider": ClassifierFreeGuidance(guidance_scale=4.0),
    }


def _hunyuan_video15() -> diffusers.DiffusionPipeline:
    pipe = diffusers.HunyuanVideo15Pipeline(**hunyuan_video15_parts(), transformer=tiny_model("hunyuan_video15"))
    pipe.vision_num_semantic_tokens = 5
    return pipe


def _allegro() -> diffusers.DiffusionPipeline:
    return diffusers.AllegroPipeline(
        **_NO_TEXT, vae=None, transformer=tiny_model("allegro"), scheduler=diffusers.DDIMScheduler(clip_sample=False)
    )


VIDEO_PIPELINES: dict[str, tuple[Callable[[], diffusers.DiffusionPipeline], Callable[[], dict[str, Any]]]] = {
    "wan": (_wan, tiny_calls.wan_call),
    "wan22": (_wan22, tiny_calls.wan_call),
    "wan22_low": (_wan22_low, tiny_calls.wan_call),
    "wan_ti2v": (_wan_ti2v, tiny_calls.wan_call),
    "wan_vace": (_wan_vace, tiny_calls.wan_call),
    "wan_animate": (_wan_animate, tiny_calls.wan_animate_call),
    "ltx2": (_ltx2, tiny_calls.ltx2_call),
    "animatediff": (_animatediff, tiny_calls.animatediff_call),
    "svd": (_svd, tiny_calls.svd_call),
    "kandinsky5": (_kandinsky5, tiny_calls.kandinsky5_call),
    "hunyuan_video15": (_hunyuan_video15, tiny_calls.hunyuan_video15_call),
    "allegro": (_allegro, tiny_calls.allegro_call),
}
