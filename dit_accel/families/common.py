"""Facts that several families share: patch sizes, groups of leaf sites, position ids."""

from collections.abc import Mapping
from typing import Any

import torch

from dit_accel.families.base import SiteSpec
from dit_accel.families.sample import Sample


def square_patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Patches of ``patch_size`` cells a side."""
    return (1, config["patch_size"], config["patch_size"])


def packed_patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """The pipeline packs 2×2 latent cells into one token before the model sees them."""
    return (1, 2, 2)


def video_patch(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Patches of ``patch_size_t`` frames (one where the model has none) and ``patch_size`` cells a side."""
    return (config["patch_size_t"] or 1, config["patch_size"], config["patch_size"])


def norm(path: str, *feeds: str, full_length: bool = False) -> SiteSpec:
    """A norm that may be skipped together with its readers ``feeds``; see :class:`SiteSpec` for ``full_length``."""
    return SiteSpec(path=path, kind="norm", feeds=feeds, auxiliary=True, full_length=full_length)


def text(path: str) -> SiteSpec:
    """A module that sees nothing but the prompt."""
    return SiteSpec(path=path, kind="text", invariant=True)


CROSS_ATTENTION = (SiteSpec(path="attn2", kind="cross_attn"), text("attn2.to_k"), text("attn2.to_v"))

# adaLN-single: cross-attention has no norm, norm2 stands in front of the feed-forward.
ADALN_CROSS_ATTENTIONS = (norm("norm1", "attn1"), SiteSpec(path="attn1", kind="self_attn"), *CROSS_ATTENTION)
FF = SiteSpec(path="ff", kind="ff")

# Double-stream blocks. The modulating norms also return the gates, so only their inner LayerNorm may be skipped.
JOINT_ATTENTION = (
    norm("norm1.norm", "attn"),
    norm("norm1_context.norm", "attn"),
    SiteSpec(path="attn", kind="joint_attn"),
)
JOINT_FEED_FORWARDS = (
    norm("norm2", "ff"),
    FF,
    norm("norm2_context", "ff_context"),
    SiteSpec(path="ff_context", kind="ff_context"),
)
JOINT_SITES = (*JOINT_ATTENTION, *JOINT_FEED_FORWARDS)

# Single-stream blocks: attention and feed-forward side by side, joined by the output projection.
SINGLE_SITES = (
    norm("norm.norm", "proj_mlp", "attn"),
    SiteSpec(path="proj_mlp", kind="proj_mlp", feeds=("proj_out",)),
    SiteSpec(path="attn", kind="single_attn", feeds=("proj_out",)),
    SiteSpec(path="proj_out", kind="proj_out"),
)


def position_ids(sample: Sample, rows: int, columns: int, *, axes: int = 3) -> torch.Tensor:
    """Ids [rows × columns, axes] of a picture's tokens: the row on axis 1, the column on axis 2, else zero."""
    ids = torch.zeros(rows, columns, axes, device=sample.device, dtype=sample.dtype)
    ids[..., 1] += torch.arange(rows, device=sample.device)[:, None]
    ids[..., 2] += torch.arange(columns, device=sample.device)[None, :]
    return ids.reshape(-1, axes)
