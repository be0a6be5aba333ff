"""Tiny diffusers pipelines without text encoders: the prompt comes in as embeddings."""

from collections.abc import Callable
from typing import Any

import diffusers
import tiny_calls
import torch
from tiny_image_pipelines import IMAGE_PIPELINES
from tiny_models import randomise, tiny_model
from tiny_vae import without_vae
from tiny_video_pipelines import VIDEO_PIPELINES


def _vae(latent_channels: int = 4) -> diffusers.AutoencoderKL:
    """A tiny VAE that scales by 8."""
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=latent_channels,
        norm_num_groups=2,
        scaling_factor=0.5,
        shift_factor=0.1,
        sample_size=64,
    )
    return randomise(vae, 1).eval().requires_grad_(False)


def _pixart() -> diffusers.DiffusionPipeline:
    return diffusers.PixArtAlphaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=_vae(),
        transformer=tiny_model("pixart"),
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )


def _sd() -> diffusers.DiffusionPipeline:
    return diffusers.StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=None,
        tokenizer=None,
        unet=tiny_model("sd"),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl() -> diffusers.DiffusionPipeline:
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=tiny_model("sdxl"),
        scheduler=diffusers.EulerDiscreteScheduler(),
        add_watermarker=False,
    )


def _sd3() -> diffusers.DiffusionPipeline:
    return diffusers.StableDiffusion3Pipeline(
        transformer=tiny_model("sd3"),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def _flux() -> diffusers.DiffusionPipeline:
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=tiny_model("flux"),
    )


def _dit() -> diffusers.DiffusionPipeline:
    return diffusers.DiTPipeline(transformer=tiny_model("dit"), vae=_vae(), scheduler=diffusers.DDIMScheduler())


def _sana() -> diffusers.DiffusionPipeline:
    return without_vae("SanaPipeline", "sana")


def _cogvideox() -> diffusers.DiffusionPipeline:
    return diffusers.CogVideoXPipeline(
        transformer=tiny_model("cogvideox"),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
    )


def _ltx() -> diffusers.DiffusionPipeline:
    return without_vae("LTXPipeline", "ltx")


def _hunyuan_video() -> diffusers.DiffusionPipeline:
    return without_vae("HunyuanVideoPipeline", "hunyuan_video", "text_encoder_2", "tokenizer_2")


def _qwen_image() -> diffusers.DiffusionPipeline:
    return without_vae("QwenImagePipeline", "qwen_image")


def _lumina2() -> diffusers.DiffusionPipeline:
    return without_vae("Lumina2Pipeline", "lumina2")


def _z_image() -> diffusers.DiffusionPipeline:
    return without_vae("ZImagePipeline", "z_image")


def _mochi() -> diffusers.DiffusionPipeline:
    return without_vae("MochiPipeline", "mochi")


_PIPELINES: dict[str, tuple[Callable[[], diffusers.DiffusionPipeline], Callable[[], dict[str, Any]]]] = {
    "pixart": (_pixart, tiny_calls.pixart_call),
    "sd": (_sd, tiny_calls.sd_call),
    "sdxl": (_sdxl, tiny_calls.sdxl_call),
    "sd3": (_sd3, tiny_calls.sd3_call),
    "flux": (_flux, tiny_calls.flux_call),
    "dit": (_dit, tiny_calls.dit_call),
    "sana": (_sana, tiny_calls.sana_call),
    "cogvideox": (_cogvideox, tiny_calls.wan_call),
    "ltx": (_ltx, tiny_calls.ltx_call),
    "hunyuan_video": (_hunyuan_video, tiny_calls.hunyuan_video_call),
    "qwen_image": (_qwen_image, tiny_calls.qwen_image_call),
    "lumina2": (_lumina2, tiny_calls.lumina2_call),
    "z_image": (_z_image, tiny_calls.z_image_call),
    "mochi": (_mochi, tiny_calls.mochi_call),
    **VIDEO_PIPELINES,
}
_PIPELINES |= IMAGE_PIPELINES

TINY_PIPELINE_NAMES = tuple(_PIPELINES)


def tiny_pipeline(name: str) -> diffusers.DiffusionPipeline:
    """A real pipeline with random components; two calls give equal, independent pipelines."""
    pipe = _PIPELINES[name][0]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_call(name: str, seed: int = 0, num_inference_steps: int = 6, **overrides: Any) -> dict[str, Any]:
    """Keyword arguments that run ``tiny_pipeline(name)``; the latents come back in ``.images`` or ``.frames``."""
    return {
        **_PIPELINES[name][1](),
        "num_inference_steps": num_inference_steps,
        # DiTPipeline always decodes.
        "output_type": "pt" if name == "dit" else "latent",
        "generator": torch.Generator().manual_seed(seed),
        **overrides,
    }
