"""HunyuanVideo: double-stream blocks, then single-stream blocks on the joined sequence (video first; 2412.03603)."""

from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, Stack, config_of
from dit_accel.families.common import JOINT_SITES, SINGLE_SITES, video_patch
from dit_accel.families.sample import Sample


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    guidance = torch.full((sample.batch,), 6000.0, device=sample.device, dtype=sample.dtype)
    return {
        "hidden_states": sample.video(config["in_channels"]),
        "timestep": sample.timestep(),
        "encoder_hidden_states": sample.text(config["text_embed_dim"]),
        "encoder_attention_mask": sample.mask(torch.long),
        "pooled_projections": sample.randn(sample.batch, config["pooled_projection_dim"]),
        "guidance": guidance if config["guidance_embeds"] else None,
        "return_dict": False,
    }


HUNYUAN_VIDEO = Family(
    name="hunyuan_video",
    model_classes=("HunyuanVideoTransformer3DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states", "encoder_hidden_states"),
            sites=JOINT_SITES,
        ),
        Stack(
            path="single_transformer_blocks",
            alias="single",
            streams=("hidden_states", "encoder_hidden_states"),
            sites=SINGLE_SITES,
        ),
    ),
    # No invariant text site: the token refiner in context_embedder is modulated by the timestep.
    guidance="distilled",
    conditioning=("encoder_hidden_states", "pooled_projections"),
    text="suffix",
    latent_layout="BCFHW",
    patch=video_patch,
    vae_scale=(4, 8),
    text_tokens=256,
    default_px=720,
    default_frames=129,
    make_inputs=_inputs,
    notes=("With true_cfg_scale > 1 the pipeline calls the denoiser twice per step.",),
)
