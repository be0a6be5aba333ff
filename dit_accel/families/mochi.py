"""Mochi 1: joint attention over video and text (video first, padding left out); the text stream is narrower."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.sample import Sample


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    return (1, config["patch_size"], config["patch_size"])


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    return {
        "hidden_states": sample.video(config["in_channels"]),
        "encoder_hidden_states": sample.text(config["text_embed_dim"]),
        "timestep": sample.timestep(500, sample.dtype),
        "encoder_attention_mask": sample.mask(torch.bool),
        "return_dict": False,
    }


MOCHI = Family(
    name="mochi",
    model_classes=("MochiTransformer3DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states", "encoder_hidden_states"),
            sites=(
                # norm2 and norm4 come after what they normalise: they are modulated anew at every step.
                SiteSpec(path="norm1.norm", kind="norm", feeds=("attn1",), auxiliary=True),
                SiteSpec(path="norm1_context.norm", kind="norm", feeds=("attn1",), auxiliary=True),
                SiteSpec(path="attn1", kind="joint_attn"),
                SiteSpec(path="norm3", kind="norm", feeds=("ff",), auxiliary=True),
                SiteSpec(path="ff", kind="ff"),
                SiteSpec(path="norm3_context", kind="norm", feeds=("ff_context",), auxiliary=True),
                SiteSpec(path="ff_context", kind="ff_context"),
            ),
        ),
    ),
    extras=(
        SiteSpec(path="time_embed.pooler", kind="text", invariant=True),
        SiteSpec(path="time_embed.caption_proj", kind="text", invariant=True),
    ),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="suffix",
    latent_layout="BCFHW",
    patch=_patch,
    vae_scale=(6, 8),
    text_tokens=256,
    default_px=480,
    default_frames=163,
    make_inputs=_inputs,
    notes=("Attention looks at the prompt's mask, so the model's cost is not counted on shapes alone.",),
)
