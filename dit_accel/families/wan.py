"""Wan 2.1 and 2.2 video: self-attention, text (and image) cross-attention, feed-forward (2503.20314)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import CROSS_ATTENTION, norm, text
from dit_accel.families.sample import Sample

# Latent channels of the autoencoder of Wan 2.2 5B, which scales by 16; its pipelines give one timestep per token.
_CHANNELS_OF_5B = 48
_IMAGE_TOKENS = 257

WAN_SITES = (
    norm("norm1", "attn1"),
    SiteSpec(path="attn1", kind="self_attn"),
    norm("norm2", "attn2"),
    *CROSS_ATTENTION,
    text("attn2.add_k_proj"),
    text("attn2.add_v_proj"),
    norm("norm3", "ffn"),
    SiteSpec(path="ffn", kind="ff"),
)
WAN_BLOCKS = Stack(path="blocks", alias="blocks", streams=("hidden_states",), sites=WAN_SITES)
# The rest of condition_embedder embeds the timestep.
WAN_EXTRAS = (
    text("condition_embedder.text_embedder"),
    text("condition_embedder.image_embedder"),
)


def wan_patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Patch size of any Wan: frames, height, width."""
    frames, height, width = config["patch_size"]
    return (frames, height, width)


def wan_inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    """What every Wan takes: latents, timestep, prompt and, where the model was made for one, an image."""
    config = config_of(model)
    image = sample.randn(sample.batch, _IMAGE_TOKENS, config["image_dim"]) if config["image_dim"] is not None else None
    return {
        "hidden_states": sample.video(config["in_channels"]),
        "timestep": sample.timestep(),
        "encoder_hidden_states": sample.text(config["text_dim"]),
        "encoder_hidden_states_image": image,
        "return_dict": False,
    }


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    inputs = wan_inputs(model, sample)
    config = config_of(model)
    if config["out_channels"] == _CHANNELS_OF_5B:
        frames, height, width = wan_patch(config)
        tokens = (sample.frames // frames) * (sample.height // height) * (sample.width // width)
        inputs["timestep"] = torch.full((sample.batch, tokens), 500.0, device=sample.device)
    return inputs


WAN = Family(
    name="wan",
    model_classes=("WanTransformer3DModel",),
    stacks=(WAN_BLOCKS,),
    extras=WAN_EXTRAS,
    guidance="two_calls",
    conditioning=("encoder_hidden_states", "encoder_hidden_states_image"),
    text="cross",
    latent_layout="BCFHW",
    patch=wan_patch,
    vae_scale=(4, 8),
    text_tokens=512,
    default_px=512,
    default_frames=81,
    make_inputs=_inputs,
    notes=(
        "Wan 2.2 has two denoisers, one for high and one for low noise; each has its own sites and steps.",
        "The autoencoder of the 5B model scales by 16, not by 8: a denoiser without its pipeline cannot tell.",
    ),
)
