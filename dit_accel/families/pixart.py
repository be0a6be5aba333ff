"""PixArt-alpha, PixArt-Sigma: cross-attention DiT blocks, adaLN-single (Chen et al., 2310.00426, 2403.04692)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, randn


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    return (1, config["patch_size"], config["patch_size"])


def _sample_inputs(
    model: nn.Module,
    height_px: int,
    width_px: int,
    num_frames: int,
    batch: int,
    text_tokens: int,
    device: torch.device | str,
    dtype: torch.dtype,
    vae_scale: int = 8,
) -> dict[str, Any]:
    config: Mapping[str, Any] = model.config  # type: ignore[assignment]
    latent = (batch, config["in_channels"], height_px // vae_scale, width_px // vae_scale)
    text_dim = config["caption_channels"] or config["cross_attention_dim"]
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if getattr(model, "use_additional_conditions", False):
        added = {
            "resolution": randn(batch, 2, device=device, dtype=dtype),
            "aspect_ratio": randn(batch, 1, device=device, dtype=dtype),
        }
    return {
        "hidden_states": randn(*latent, device=device, dtype=dtype),
        "encoder_hidden_states": randn(batch, text_tokens, text_dim, device=device, dtype=dtype),
        "encoder_attention_mask": torch.ones(batch, text_tokens, device=device, dtype=dtype),
        "timestep": torch.full((batch,), 500, device=device, dtype=torch.long),
        "added_cond_kwargs": added,
        "return_dict": False,
    }


PIXART = Family(
    name="pixart",
    model_classes=("PixArtTransformer2DModel",),
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
                SiteSpec(path="norm2", kind="norm", feeds=("ff",), auxiliary=True),
                SiteSpec(path="ff", kind="ff"),
            ),
        ),
    ),
    extras=(SiteSpec(path="caption_projection", kind="text", invariant=True),),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="cross",
    latent_layout="BCHW",
    patch=_patch,
    sample_inputs=_sample_inputs,
)
