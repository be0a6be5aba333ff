"""FLUX.1: double-stream blocks, then single-stream blocks on the joined sequence (text first)."""

from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, Stack, config_of
from dit_accel.families.common import JOINT_SITES, SINGLE_SITES, packed_patch, position_ids, text
from dit_accel.families.sample import Sample
from dit_accel.families.tokens import grid_from_ids


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    rows, columns = sample.height // 2, sample.width // 2
    guidance = torch.full((sample.batch,), 3.5, device=sample.device) if config["guidance_embeds"] else None
    return {
        "hidden_states": sample.randn(sample.batch, rows * columns, config["in_channels"]),
        "encoder_hidden_states": sample.text(config["joint_attention_dim"]),
        "pooled_projections": sample.randn(sample.batch, config["pooled_projection_dim"]),
        "timestep": sample.timestep(0.5, sample.dtype),
        "img_ids": position_ids(sample, rows, columns),
        "txt_ids": torch.zeros(sample.text_tokens, 3, device=sample.device, dtype=sample.dtype),
        "guidance": guidance,
        "return_dict": False,
    }


FLUX = Family(
    name="flux",
    model_classes=("FluxTransformer2DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("encoder_hidden_states", "hidden_states"),
            sites=JOINT_SITES,
        ),
        Stack(
            path="single_transformer_blocks",
            alias="single",
            streams=("encoder_hidden_states", "hidden_states"),
            sites=SINGLE_SITES,
        ),
    ),
    extras=(text("context_embedder"),),
    guidance="distilled",
    conditioning=("encoder_hidden_states", "pooled_projections"),
    text="prefix",
    latent_layout="BNC",
    patch=packed_patch,
    text_tokens=512,
    # Kontext appends the tokens of its reference picture.
    token_grid=lambda model, call: grid_from_ids(call.get("img_ids"), frame=None, picture=0),
    make_inputs=_inputs,
    notes=(
        "With true_cfg_scale > 1 the pipeline calls the denoiser twice per step.",
        "ControlNet residuals are added between blocks by native code and stay exact.",
    ),
)
