"""Wan 2.1 and 2.2 video: self-attention, text (and image) cross-attention, feed-forward (2503.20314)."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.sample import Sample


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    frames, height, width = config["patch_size"]
    return (frames, height, width)


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    image = sample.randn(sample.batch, 257, config["image_dim"]) if config["image_dim"] is not None else None
    return {
        "hidden_states": sample.video(config["in_channels"]),
        "timestep": sample.timestep(),
        "encoder_hidden_states": sample.text(config["text_dim"]),
        "encoder_hidden_states_image": image,
        "return_dict": False,
    }


WAN = Family(
    name="wan",
    model_classes=("WanTransformer3DModel",),
    stacks=(
        Stack(
            path="blocks",
            alias="blocks",
            streams=("hidden_states",),
            sites=(
                SiteSpec(path="norm1", kind="norm", feeds=("attn1",), auxiliary=True),
                SiteSpec(path="attn1", kind="self_attn"),
                SiteSpec(path="norm2", kind="norm", feeds=("attn2",), auxiliary=True),
                SiteSpec(path="attn2", kind="cross_attn"),
                SiteSpec(path="attn2.to_k", kind="text", invariant=True),
                SiteSpec(path="attn2.to_v", kind="text", invariant=True),
                SiteSpec(path="attn2.add_k_proj", kind="text", invariant=True),
                SiteSpec(path="attn2.add_v_proj", kind="text", invariant=True),
                SiteSpec(path="norm3", kind="norm", feeds=("ffn",), auxiliary=True),
                SiteSpec(path="ffn", kind="ff"),
            ),
        ),
    ),
    # The rest of condition_embedder embeds the timestep.
    extras=(
        SiteSpec(path="condition_embedder.text_embedder", kind="text", invariant=True),
        SiteSpec(path="condition_embedder.image_embedder", kind="text", invariant=True),
    ),
    guidance="two_calls",
    conditioning=("encoder_hidden_states", "encoder_hidden_states_image"),
    text="cross",
    latent_layout="BCFHW",
    patch=_patch,
    vae_scale=(4, 8),
    text_tokens=512,
    default_px=512,
    default_frames=81,
    make_inputs=_inputs,
    notes=("Wan 2.2 has two denoisers, one for high and one for low noise; each has its own sites and steps.",),
)
