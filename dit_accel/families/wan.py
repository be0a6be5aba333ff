"""Wan 2.1 and 2.2 video: self-attention, text (and image) cross-attention, feed-forward (2503.20314)."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import CROSS_ATTENTION, norm, text
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
                norm("norm1", "attn1"),
                SiteSpec(path="attn1", kind="self_attn"),
                norm("norm2", "attn2"),
                *CROSS_ATTENTION,
                text("attn2.add_k_proj"),
                text("attn2.add_v_proj"),
                norm("norm3", "ffn"),
                SiteSpec(path="ffn", kind="ff"),
            ),
        ),
    ),
    # The rest of condition_embedder embeds the timestep.
    extras=(
        text("condition_embedder.text_embedder"),
        text("condition_embedder.image_embedder"),
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
