"""DiT: class-conditional diffusion transformer, adaLN-Zero (Peebles and Xie, 2212.09748)."""

from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import FF, norm, square_patch
from dit_accel.families.sample import Sample


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    labels = torch.arange(sample.batch, device=sample.device) % config["num_embeds_ada_norm"]
    return {
        "hidden_states": sample.latent(config["in_channels"]),
        "timestep": sample.timestep(),
        "class_labels": labels,
        "return_dict": False,
    }


DIT = Family(
    name="dit",
    model_classes=("DiTTransformer2DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states",),
            sites=(
                # norm1 also returns the gates, so only its inner LayerNorm may be skipped.
                norm("norm1.norm", "attn1"),
                SiteSpec(path="attn1", kind="self_attn"),
                norm("norm3", "ff"),
                FF,
            ),
        ),
    ),
    guidance="batched",
    conditioning=("class_labels",),
    text="pooled",
    latent_layout="BCHW",
    patch=square_patch,
    text_tokens=0,
    default_px=256,
    make_inputs=_inputs,
    notes=("Only square images: the model takes the square root of the token count.",),
)
