"""LTX-Video: self-attention, text cross-attention, feed-forward on a 32×32×8 compressed video (2501.00103)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, Stack, config_of
from dit_accel.families.common import ADALN_CROSS_ATTENTIONS, FF, norm, text, video_patch
from dit_accel.families.sample import Sample

_FRAME_RATE = 25


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    tokens = sample.frames * sample.height * sample.width
    return {
        "hidden_states": sample.randn(sample.batch, tokens, config["in_channels"]),
        "encoder_hidden_states": sample.text(config["caption_channels"]),
        "timestep": sample.timestep(),
        "encoder_attention_mask": sample.mask(),
        "num_frames": sample.frames,
        "height": sample.height,
        "width": sample.width,
        "rope_interpolation_scale": (8 / _FRAME_RATE, 32, 32),
        "return_dict": False,
    }


def ltx_grid(model: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """The grid that the call itself names, unless tokens of conditions or references stand beside the video's."""
    sizes = [call.get(name) for name in ("num_frames", "height", "width")]
    if any(size is None for size in sizes):
        return None
    frames, rows, columns = (int(size) for size in sizes if size is not None)
    tokens = call.get("hidden_states")
    if isinstance(tokens, torch.Tensor) and tokens.shape[1] != frames * rows * columns:
        return None
    return frames, rows, columns


LTX = Family(
    name="ltx",
    model_classes=("LTXVideoTransformer3DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states",),
            sites=(*ADALN_CROSS_ATTENTIONS, norm("norm2", "ff"), FF),
        ),
    ),
    extras=(text("caption_projection"),),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="cross",
    latent_layout="BNC",
    patch=video_patch,
    vae_scale=(8, 32),
    text_tokens=128,
    default_px=512,
    default_frames=161,
    token_grid=ltx_grid,
    make_inputs=_inputs,
)
