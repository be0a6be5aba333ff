"""Qwen-Image and Qwen-Image-Edit: double-stream joint attention over text and image (text first; 2508.02324)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import norm, packed_patch, text
from dit_accel.families.sample import Sample
from dit_accel.families.tokens import TokenGrid


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


def _grid(model: nn.Module, call: Mapping[str, Any]) -> TokenGrid | None:
    """The first shape is that of the picture that is made; those of pictures to edit follow it."""
    shapes = call.get("img_shapes")
    if not shapes:
        return None
    first, *others = shapes[0] if isinstance(shapes[0], list) else shapes[:1]
    frames, rows, columns = (int(size) for size in first)
    return TokenGrid(frames=frames, rows=rows, columns=columns, reference=sum(math.prod(size) for size in others))


QWEN_IMAGE = Family(
    name="qwen_image",
    model_classes=("QwenImageTransformer2DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("encoder_hidden_states", "hidden_states"),
            sites=(
                norm("img_norm1", "attn"),
                norm("txt_norm1", "attn"),
                SiteSpec(path="attn", kind="joint_attn"),
                norm("img_norm2", "img_mlp"),
                SiteSpec(path="img_mlp", kind="ff"),
                norm("txt_norm2", "txt_mlp"),
                SiteSpec(path="txt_mlp", kind="ff_context"),
            ),
        ),
    ),
    extras=(
        text("txt_norm"),
        text("txt_in"),
    ),
    guidance="two_calls",
    conditioning=("encoder_hidden_states",),
    text="prefix",
    latent_layout="BNC",
    patch=packed_patch,
    text_tokens=512,
    default_px=1328,
    token_grid=_grid,
    make_inputs=_inputs,
)
