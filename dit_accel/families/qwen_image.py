"""Qwen-Image: double-stream joint attention over text and image (text first; 2508.02324)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.sample import Sample


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    # The pipeline packs 2×2 latent cells into one token before the model sees them.
    return (1, 2, 2)


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    rows, columns = sample.height // 2, sample.width // 2
    inputs: dict[str, Any] = {
        "hidden_states": sample.randn(sample.batch, rows * columns, config["in_channels"]),
        "encoder_hidden_states": sample.text(config["joint_attention_dim"]),
        "encoder_hidden_states_mask": None,
        "timestep": sample.timestep(0.5, sample.dtype),
        "img_shapes": [[(1, rows, columns)]] * sample.batch,
        "return_dict": False,
    }
    if config["guidance_embeds"]:
        inputs["guidance"] = torch.full((sample.batch,), 4.0, device=sample.device)
    return inputs


def _grid(model: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """The first shape is that of the picture that is made; those of pictures to edit follow it."""
    shapes = call.get("img_shapes")
    if not shapes:
        return None
    frames, rows, columns = shapes[0][0] if isinstance(shapes[0], list) else shapes[0]
    return int(frames), int(rows), int(columns)


QWEN_IMAGE = Family(
    name="qwen_image",
    model_classes=("QwenImageTransformer2DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("encoder_hidden_states", "hidden_states"),
            sites=(
                SiteSpec(path="img_norm1", kind="norm", feeds=("attn",), auxiliary=True),
                SiteSpec(path="txt_norm1", kind="norm", feeds=("attn",), auxiliary=True),
                SiteSpec(path="attn", kind="joint_attn"),
                SiteSpec(path="img_norm2", kind="norm", feeds=("img_mlp",), auxiliary=True),
                SiteSpec(path="img_mlp", kind="ff"),
                SiteSpec(path="txt_norm2", kind="norm", feeds=("txt_mlp",), auxiliary=True),
                SiteSpec(path="txt_mlp", kind="ff_context"),
            ),
        ),
    ),
    extras=(
        SiteSpec(path="txt_norm", kind="text", invariant=True),
        SiteSpec(path="txt_in", kind="text", invariant=True),
    ),
    guidance="two_calls",
    conditioning=("encoder_hidden_states",),
    text="prefix",
    latent_layout="BNC",
    patch=_patch,
    text_tokens=512,
    default_px=1328,
    token_grid=_grid,
    make_inputs=_inputs,
)
