"""Tiny diffusers pipelines without text encoders: the prompt comes in as embeddings."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from tiny_models import TEXT_TOKENS, randomise, tiny_model


def _randn(*shape: int, seed: int = 7) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


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


def _wan_vae() -> diffusers.AutoencoderKLWan:
    vae = diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
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
        scheduler=diffusers.DDIMScheduler(),
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


def _wan() -> diffusers.DiffusionPipeline:
    return diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=_wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_model("wan"),
    )


def _wan22() -> diffusers.DiffusionPipeline:
    """Wan 2.2: one denoiser for the noisy steps, one for the rest."""
    return diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=_wan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=tiny_model("wan"),
        transformer_2=tiny_model("wan", seed=1),
        boundary_ratio=0.6,
    )


def _dit() -> diffusers.DiffusionPipeline:
    return diffusers.DiTPipeline(transformer=tiny_model("dit"), vae=_vae(), scheduler=diffusers.DDIMScheduler())


def _without_vae(pipeline: str, model: str, *more_encoders: str) -> diffusers.DiffusionPipeline:
    """A flow-matching pipeline that only ever returns latents."""
    empty = dict.fromkeys(("vae", "text_encoder", "tokenizer", *more_encoders))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return getattr(diffusers, pipeline)(transformer=tiny_model(model), scheduler=scheduler, **empty)


def _sana() -> diffusers.DiffusionPipeline:
    return _without_vae("SanaPipeline", "sana")


def _cogvideox() -> diffusers.DiffusionPipeline:
    return diffusers.CogVideoXPipeline(
        transformer=tiny_model("cogvideox"),
        scheduler=diffusers.CogVideoXDDIMScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
    )


def _ltx() -> diffusers.DiffusionPipeline:
    return _without_vae("LTXPipeline", "ltx")


def _hunyuan_video() -> diffusers.DiffusionPipeline:
    return _without_vae("HunyuanVideoPipeline", "hunyuan_video", "text_encoder_2", "tokenizer_2")


def _qwen_image() -> diffusers.DiffusionPipeline:
    return _without_vae("QwenImagePipeline", "qwen_image")


def _lumina2() -> diffusers.DiffusionPipeline:
    return _without_vae("Lumina2Pipeline", "lumina2")


def _z_image() -> diffusers.DiffusionPipeline:
    return _without_vae("ZImagePipeline", "z_image")


def _mochi() -> diffusers.DiffusionPipeline:
    return _without_vae("MochiPipeline", "mochi")


_SQUARE: dict[str, Any] = {"height": 64, "width": 64}


def _pair(*shape: int) -> dict[str, Any]:
    return {"prompt_embeds": _randn(*shape), "negative_prompt_embeds": _randn(*shape, seed=8)}


def _pixart_call() -> dict[str, Any]:
    masks = {
        "prompt_attention_mask": torch.ones(1, TEXT_TOKENS),
        "negative_prompt_attention_mask": torch.ones(1, TEXT_TOKENS),
    }
    return {
        **_SQUARE,
        **_pair(1, TEXT_TOKENS, 12),
        **masks,
        "negative_prompt": None,
        "use_resolution_binning": False,
        "guidance_scale": 4.5,
    }


def _sd_call() -> dict[str, Any]:
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 16), "guidance_scale": 5.0}


def _sdxl_call() -> dict[str, Any]:
    pooled = {"pooled_prompt_embeds": _randn(1, 16), "negative_pooled_prompt_embeds": _randn(1, 16, seed=8)}
    return {**_sd_call(), **pooled}


def _sd3_call() -> dict[str, Any]:
    pooled = {"pooled_prompt_embeds": _randn(1, 10), "negative_pooled_prompt_embeds": _randn(1, 10, seed=8)}
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 12), **pooled, "guidance_scale": 5.0}


def _flux_call() -> dict[str, Any]:
    return {
        **_SQUARE,
        "prompt_embeds": _randn(1, TEXT_TOKENS, 12),
        "pooled_prompt_embeds": _randn(1, 10),
        "guidance_scale": 3.5,
    }


def _wan_call() -> dict[str, Any]:
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 16), "num_frames": 5, "guidance_scale": 5.0}


def _dit_call() -> dict[str, Any]:
    return {"class_labels": [3], "guidance_scale": 4.0}


def _masks(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    ones = torch.ones(1, TEXT_TOKENS, dtype=dtype)
    return {"prompt_attention_mask": ones, "negative_prompt_attention_mask": ones.clone()}


def _sana_call() -> dict[str, Any]:
    return {
        "height": 128,
        "width": 128,
        **_pair(1, TEXT_TOKENS, 12),
        **_masks(),
        "negative_prompt": None,
        "use_resolution_binning": False,
        "guidance_scale": 4.5,
    }


def _ltx_call() -> dict[str, Any]:
    return {
        "height": 128,
        "width": 128,
        **_pair(1, TEXT_TOKENS, 12),
        **_masks(),
        "negative_prompt": None,
        "num_frames": 9,
        "guidance_scale": 3.0,
    }


def _hunyuan_video_call() -> dict[str, Any]:
    return {
        **_SQUARE,
        "prompt_embeds": _randn(1, TEXT_TOKENS, 16),
        "prompt_attention_mask": torch.ones(1, TEXT_TOKENS, dtype=torch.long),
        "pooled_prompt_embeds": _randn(1, 8),
        "num_frames": 5,
    }


def _qwen_image_call() -> dict[str, Any]:
    ones = torch.ones(1, TEXT_TOKENS, dtype=torch.long)
    masks = {"prompt_embeds_mask": ones, "negative_prompt_embeds_mask": ones.clone()}
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 12), **masks, "true_cfg_scale": 4.0}


def _lumina2_call() -> dict[str, Any]:
    return {**_SQUARE, **_pair(1, TEXT_TOKENS, 16), **_masks(torch.bool), "guidance_scale": 4.0}


def _z_image_call() -> dict[str, Any]:
    prompts = {"prompt_embeds": [_randn(TEXT_TOKENS, 16)], "negative_prompt_embeds": [_randn(TEXT_TOKENS, 16, seed=8)]}
    return {**_SQUARE, **prompts, "guidance_scale": 4.0}


def _mochi_call() -> dict[str, Any]:
    return {
        **_SQUARE,
        **_pair(1, TEXT_TOKENS, 16),
        **_masks(torch.bool),
        "num_frames": 7,
        "guidance_scale": 4.5,
    }


_PIPELINES: dict[str, tuple[Callable[[], diffusers.DiffusionPipeline], Callable[[], dict[str, Any]]]] = {
    "pixart": (_pixart, _pixart_call),
    "sd": (_sd, _sd_call),
    "sdxl": (_sdxl, _sdxl_call),
    "sd3": (_sd3, _sd3_call),
    "flux": (_flux, _flux_call),
    "wan": (_wan, _wan_call),
    "wan22": (_wan22, _wan_call),
    "dit": (_dit, _dit_call),
    "sana": (_sana, _sana_call),
    "cogvideox": (_cogvideox, _wan_call),
    "ltx": (_ltx, _ltx_call),
    "hunyuan_video": (_hunyuan_video, _hunyuan_video_call),
    "qwen_image": (_qwen_image, _qwen_image_call),
    "lumina2": (_lumina2, _lumina2_call),
    "z_image": (_z_image, _z_image_call),
    "mochi": (_mochi, _mochi_call),
}

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
