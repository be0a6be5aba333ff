"""Allegro video: self-attention with rotary positions, text cross-attention, feed-forward (2410.15458)."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.sample import Sample


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    return (config["patch_size_t"], config["patch_size"], config["patch_size"])


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    # The rotary positions that pipelines send multiply elementwise: they cost no multiply-accumulates.
    return {
        "hidden_states": sample.video(config["in_channels"]),
        "encoder_hidden_states": sample.text(config["caption_channels"]),
        "timestep": sample.timestep(),
        "encoder_attention_mask": sample.mask(),
        "return_dict": False,
    }


ALLEGRO = Family(
    name="allegro",
    model_classes=("AllegroTransformer3DModel",),
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
                # norm2 stands in front of the feed-forward; cross-attention has no norm, and norm3 is never called.
                SiteSpec(path="norm2", kind="norm", feeds=("ff",), auxiliary=True),
                SiteSpec(path="ff", kind="ff"),
            ),
        ),
    ),
    extras=(SiteSpec(path="caption_projection", kind="text", invariant=True),),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="cross",
    latent_layout="BCFHW",
    patch=_patch,
    vae_scale=(4, 8),
    text_tokens=512,
    default_px=720,
    default_frames=88,
    make_inputs=_inputs,
)
