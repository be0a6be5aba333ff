"""FLUX.1: double-stream blocks, then single-stream blocks on the joined sequence (text first)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.grid import grid_from_ids
from dit_accel.families.sample import Sample


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    # The pipeline packs 2×2 latent cells into one token before the model sees them.
    return (1, 2, 2)


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    rows, columns = sample.height // 2, sample.width // 2
    ids = torch.zeros(rows, columns, 3, device=sample.device, dtype=sample.dtype)
    ids[..., 1] += torch.arange(rows, device=sample.device)[:, None]
    ids[..., 2] += torch.arange(columns, device=sample.device)[None, :]
    guidance = torch.full((sample.batch,), 3.5, device=sample.device) if config["guidance_embeds"] else None
    return {
        "hidden_states": sample.randn(sample.batch, rows * columns, config["in_channels"]),
        "encoder_hidden_states": sample.text(config["joint_attention_dim"]),
        "pooled_projections": sample.randn(sample.batch, config["pooled_projection_dim"]),
        "timestep": sample.timestep(0.5, sample.dtype),
        "img_ids": ids.reshape(-1, 3),
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
            sites=(
                # The modulating norms also return the gates, so only their inner LayerNorm may be skipped.
                SiteSpec(path="norm1.norm", kind="norm", feeds=("attn",), auxiliary=True),
                SiteSpec(path="norm1_context.norm", kind="norm", feeds=("attn",), auxiliary=True),
                SiteSpec(path="attn", kind="joint_attn"),
                SiteSpec(path="norm2", kind="norm", feeds=("ff",), auxiliary=True),
                SiteSpec(path="ff", kind="ff"),
                SiteSpec(path="norm2_context", kind="norm", feeds=("ff_context",), auxiliary=True),
                SiteSpec(path="ff_context", kind="ff_context"),
            ),
        ),
        Stack(
            path="single_transformer_blocks",
            alias="single",
            streams=("encoder_hidden_states", "hidden_states"),
            sites=(
                SiteSpec(path="norm.norm", kind="norm", feeds=("proj_mlp", "attn"), auxiliary=True),
                SiteSpec(path="proj_mlp", kind="proj_mlp", feeds=("proj_out",)),
                SiteSpec(path="attn", kind="single_attn", feeds=("proj_out",)),
                SiteSpec(path="proj_out", kind="proj_out"),
            ),
        ),
    ),
    extras=(SiteSpec(path="context_embedder", kind="text", invariant=True),),
    guidance="distilled",
    conditioning=("encoder_hidden_states", "pooled_projections"),
    text="prefix",
    latent_layout="BNC",
    patch=_patch,
    text_tokens=512,
    token_grid=lambda model, call: grid_from_ids(call.get("img_ids"), frame=None),
    make_inputs=_inputs,
    notes=(
        "With true_cfg_scale > 1 the pipeline calls the denoiser twice per step.",
        "ControlNet residuals are added between blocks by native code and stay exact.",
    ),
)
