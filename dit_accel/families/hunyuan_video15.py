"""HunyuanVideo 1.5: double-stream blocks over the video and three kinds of prompt tokens (video first; 2511.18870)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.sample import Sample

# Pieces of a picture that SigLIP sees, and letters that ByT5 reads: the pipelines always send so many.
_IMAGE_TOKENS = 729
_LETTER_TOKENS = 256


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    return (config["patch_size_t"], config["patch_size"], config["patch_size"])


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    ones = torch.ones(sample.batch, _LETTER_TOKENS, device=sample.device, dtype=torch.long)
    inputs = {
        "hidden_states": sample.video(config["in_channels"]),
        "timestep": sample.timestep(500, sample.dtype),
        "encoder_hidden_states": sample.text(config["text_embed_dim"]),
        "encoder_attention_mask": sample.mask(torch.long),
        "encoder_hidden_states_2": sample.randn(sample.batch, _LETTER_TOKENS, config["text_embed_2_dim"]),
        "encoder_attention_mask_2": ones,
        "image_embeds": sample.randn(sample.batch, _IMAGE_TOKENS, config["image_embed_dim"]),
        "return_dict": False,
    }
    if config["use_meanflow"]:
        inputs["timestep_r"] = sample.timestep(400, sample.dtype)
    return inputs


HUNYUAN_VIDEO15 = Family(
    name="hunyuan_video15",
    model_classes=("HunyuanVideo15Transformer3DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states", "encoder_hidden_states"),
            sites=(
                SiteSpec(path="norm1.norm", kind="norm", feeds=("attn",), auxiliary=True),
                SiteSpec(path="norm1_context.norm", kind="norm", feeds=("attn",), auxiliary=True),
                SiteSpec(path="attn", kind="joint_attn"),
                SiteSpec(path="norm2", kind="norm", feeds=("ff",), auxiliary=True),
                SiteSpec(path="norm2_context", kind="norm", feeds=("ff_context",), auxiliary=True),
                SiteSpec(path="ff", kind="ff"),
                SiteSpec(path="ff_context", kind="ff_context"),
            ),
        ),
    ),
    # The rest of context_embedder is modulated by the timestep.
    extras=(
        SiteSpec(path="context_embedder.proj_in", kind="text", invariant=True),
        SiteSpec(path="context_embedder_2", kind="text", invariant=True),
        SiteSpec(path="image_embedder", kind="text", invariant=True),
    ),
    guidance="two_calls",
    conditioning=("encoder_hidden_states", "encoder_hidden_states_2", "image_embeds"),
    text="suffix",
    latent_layout="BCFHW",
    patch=_patch,
    vae_scale=(4, 16),
    text_tokens=1000,
    default_px=480,
    default_frames=121,
    make_inputs=_inputs,
    notes=(
        "Guidance is run by the pipeline's guider, which names each branch; some guiders call three times a step.",
        "It looks whether its image is empty: neither counted on shapes alone nor compiled into one graph.",
    ),
)
