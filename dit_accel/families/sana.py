"""Sana: linear self-attention, softmax cross-attention, convolutional feed-forward, 32× autoencoder (2410.10629)."""

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
    inputs: dict[str, Any] = {
        "hidden_states": sample.latent(config["in_channels"]),
        "encoder_hidden_states": sample.text(config["caption_channels"]),
        "timestep": sample.timestep(),
        "encoder_attention_mask": sample.mask(),
        "return_dict": False,
    }
    if config["guidance_embeds"]:
        inputs["guidance"] = torch.full((sample.batch,), 4.5, device=sample.device, dtype=sample.dtype)
    return inputs


SANA = Family(
    name="sana",
    model_classes=("SanaTransformer2DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states",),
            sites=(
                SiteSpec(path="norm1", kind="norm", feeds=("attn1",), auxiliary=True),
                SiteSpec(path="attn1", kind="self_attn"),
                SiteSpec(path="attn2", kind="cross_attn"),
                SiteSpec(path="attn2.to_k", kind="text", invariant=True),
                SiteSpec(path="attn2.to_v", kind="text", invariant=True),
                # norm2 stands in front of the feed-forward, which folds it to an image; cross-attention has no norm.
                SiteSpec(path="norm2", kind="norm", feeds=("ff",), auxiliary=True, full_length=True),
                SiteSpec(path="ff", kind="ff"),
            ),
        ),
    ),
    extras=(
        SiteSpec(path="caption_projection", kind="text", invariant=True),
        SiteSpec(path="caption_norm", kind="text", invariant=True),
    ),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="cross",
    latent_layout="BCHW",
    patch=_patch,
    vae_scale=(1, 32),
    text_tokens=300,
    make_inputs=_inputs,
    notes=("Self-attention is linear in the number of tokens: attention sparsity has nothing to gain there.",),
)
