"""Tiny image pipelines without text encoders, beyond those in ``tiny_pipelines``."""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import tiny_calls
from tiny_models import randomise, tiny_model
from tiny_vae import PoolingVae, without_vae


def _aura_flow() -> diffusers.DiffusionPipeline:
    pipe = without_vae("AuraFlowPipeline", "aura_flow")
    # Without a VAE the pipeline takes no latent size from it.
    pipe.vae_scale_factor = 8
    return pipe


def _flux2() -> diffusers.DiffusionPipeline:
    return without_vae("Flux2Pipeline", "flux2")


def _flux2_klein() -> diffusers.DiffusionPipeline:
    # It undoes the normalisation of its latents with the statistics of its VAE, also for those that it returns.
    vae = diffusers.AutoencoderKLFlux2(block_out_channels=(4, 4, 4, 4), latent_channels=4, norm_num_groups=2)
    return diffusers.Flux2KleinPipeline(
        transformer=tiny_model("flux2_klein"),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=randomise(vae, 1).eval().requires_grad_(False),
        text_encoder=None,
        tokenizer=None,
    )


def _hidream() -> diffusers.DiffusionPipeline:
    more = (f"{kind}_{number}" for kind in ("text_encoder", "tokenizer") for number in (2, 3, 4))
    pipe = without_vae("HiDreamImagePipeline", "hidream", *more)
    # It scales every size to the area of this many latent cells squared.
    pipe.default_sample_size = 8
    return pipe


def _chroma() -> diffusers.DiffusionPipeline:
    return without_vae("ChromaPipeline", "chroma")


def _cogview4() -> diffusers.DiffusionPipeline:
    return without_vae("CogView4Pipeline", "cogview4")


def _qwen_image_edit(pipeline: str, model: str) -> diffusers.DiffusionPipeline:
    """The pictures to edit go through a VAE, prompts come in as embeddings."""
    empty = dict.fromkeys(("text_encoder", "tokenizer", "processor"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return getattr(diffusers, pipeline)(transformer=tiny_model(model), scheduler=scheduler, vae=PoolingVae(), **empty)


IMAGE_PIPELINES: dict[str, tuple[Callable[[], diffusers.DiffusionPipeline], Callable[[], dict[str, Any]]]] = {
    "aura_flow": (_aura_flow, tiny_calls.aura_flow_call),
    "flux2": (_flux2, tiny_calls.flux2_call),
    "flux2_klein": (_flux2_klein, tiny_calls.flux2_klein_call),
    "hidream": (_hidream, tiny_calls.hidream_call),
    "chroma": (_chroma, tiny_calls.chroma_call),
    "cogview4": (_cogview4, tiny_calls.cogview4_call),
    "qwen_image_edit": (
        partial(_qwen_image_edit, "QwenImageEditPipeline", "qwen_image_edit"),
        tiny_calls.qwen_image_edit_call,
    ),
    "qwen_image_edit_plus": (
        partial(_qwen_image_edit, "QwenImageEditPlusPipeline", "qwen_image_edit_plus"),
        tiny_calls.qwen_image_edit_plus_call,
    ),
}
