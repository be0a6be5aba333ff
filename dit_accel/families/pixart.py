"""PixArt-alpha, PixArt-Sigma: cross-attention DiT blocks, adaLN-single (Chen et al., 2310.00426, 2403.04692)."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.sample import Sample


def _patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    return (1, config["patch_size"], config["patch_size"])


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if getattr(model, "use_additional_conditions", False):
        added = {"resolution": sample.randn(sample.batch, 2), "aspect_ratio": sample.randn(sample.batch, 1)}
    return {
        "hidden_states": sample.latent(config["in_channels"]),
        "encoder_hidden_states": sample.text(config["caption_channels"] or config["cross_attention_dim"]),
        "encoder_attention_mask": sample.mask(),
        "timestep": sample.timestep(),
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
                # adaLN-single applies norm2 in front of the feed-forward; cross-attention has no norm.
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
    text_tokens=120,
    make_inputs=_inputs,
    notes=("PixArt-Sigma pads prompts to 300 tokens, PixArt-alpha to 120.",),
)
