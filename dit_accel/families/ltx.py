"""LTX-Video: self-attention, text cross-attention, feed-forward on a 32×32×8 compressed video (2501.00103)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.sample import Sample

_FRAME_RATE = 25


def ltx_patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Patch size of LTX-Video and LTX-2: frames, height, width."""
    return (config["patch_size_t"], config["patch_size"], config["patch_size"])


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
    """The grid that the call itself names, unless other tokens (of conditions, of references) follow the video's."""
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
            sites=(
                SiteSpec(path="norm1", kind="norm", feeds=("attn1",), auxiliary=True),
                SiteSpec(path="attn1", kind="self_attn"),
                SiteSpec(path="attn2", kind="cross_attn"),
                SiteSpec(path="attn2.to_k", kind="text", invariant=True),
                SiteSpec(path="attn2.to_v", kind="text", invariant=True),
                # norm2 stands in front of the feed-forward; cross-attention has no norm.
                SiteSpec(path="norm2", kind="norm", feeds=("ff",), auxiliary=True),
                SiteSpec(path="ff", kind="ff"),
            ),
        ),
    ),
    extras=(SiteSpec(path="caption_projection", kind="text", invariant=True),),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="cross",
    latent_layout="BNC",
    patch=ltx_patch,
    vae_scale=(8, 32),
    text_tokens=128,
    default_px=512,
    default_frames=161,
    token_grid=ltx_grid,
    make_inputs=_inputs,
)
