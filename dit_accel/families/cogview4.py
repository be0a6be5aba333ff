"""CogView4: joint attention over text and image, one feed-forward for both (text first)."""

from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import norm, square_patch, text
from dit_accel.families.sample import Sample


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    size = torch.tensor([[8 * sample.height, 8 * sample.width]], device=sample.device, dtype=sample.dtype)
    return {
        "hidden_states": sample.latent(config["in_channels"]),
        "encoder_hidden_states": sample.text(config["text_embed_dim"]),
        "timestep": sample.timestep(),
        "original_size": size.repeat(sample.batch, 1),
        "target_size": size.repeat(sample.batch, 1),
        "crop_coords": torch.zeros(sample.batch, 2, device=sample.device, dtype=sample.dtype),
        "return_dict": False,
    }


COGVIEW4 = Family(
    name="cogview4",
    model_classes=("CogView4Transformer2DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states", "encoder_hidden_states"),
            # The feed-forward runs twice a call, for the image and for the text: it is no site of its own.
            sites=(
                norm("norm1.norm", "attn1"),
                norm("norm1.norm_context", "attn1"),
                SiteSpec(path="attn1", kind="joint_attn"),
            ),
        ),
    ),
    extras=(text("patch_embed.text_proj"),),
    guidance="two_calls",
    conditioning=("encoder_hidden_states",),
    text="prefix",
    latent_layout="BCHW",
    patch=square_patch,
    text_tokens=1024,
    make_inputs=_inputs,
    notes=(
        "The feed-forward serves image and text in two calls, so it is kept only together with its block.",
        "Prompts are padded to a multiple of 16 tokens, not to the longest that the pipeline takes.",
    ),
)
