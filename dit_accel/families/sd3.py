"""Stable Diffusion 3 and 3.5: joint attention over image and text (image first); 3.5-medium adds image attention."""

from typing import Any

from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import JOINT_FEED_FORWARDS, norm, square_patch, text
from dit_accel.families.sample import Sample


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    return {
        "hidden_states": sample.latent(config["in_channels"]),
        "encoder_hidden_states": sample.text(config["joint_attention_dim"]),
        "pooled_projections": sample.randn(sample.batch, config["pooled_projection_dim"]),
        "timestep": sample.timestep(),
        "return_dict": False,
    }


SD3 = Family(
    name="sd3",
    model_classes=("SD3Transformer2DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            # The last block is `context_pre_only`: it returns None for the text stream.
            streams=("encoder_hidden_states", "hidden_states"),
            sites=(
                norm("norm1.norm", "attn", "attn2"),
                norm("norm1_context.norm", "attn"),
                SiteSpec(path="attn", kind="joint_attn"),
                SiteSpec(path="attn2", kind="self_attn"),
                *JOINT_FEED_FORWARDS,
            ),
        ),
    ),
    extras=(text("context_embedder"),),
    guidance="batched",
    conditioning=("encoder_hidden_states", "pooled_projections"),
    text="suffix",
    latent_layout="BCHW",
    patch=square_patch,
    text_tokens=333,
    make_inputs=_inputs,
    notes=("Skip-layer guidance calls the denoiser once more per step, without some of its blocks.",),
)
