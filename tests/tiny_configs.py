"""Configs of the tiny denoisers, and inputs for those that no family describes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tiny_image_configs import IMAGES
from torch import nn

TEXT_TOKENS = 6


@dataclass(frozen=True)
class Tiny:
    """A tiny model: its class, its config, and the size of a sample call in latent cells."""

    model_class: str
    config: dict[str, Any]
    px: int = 64
    frames: int = 1
    inputs: Callable[[nn.Module, torch.Generator, int], dict[str, Any]] | None = None


_UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "norm_num_groups": 8,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
}

_WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}

TINY: dict[str, Tiny] = {
    "pixart": Tiny(
        "PixArtTransformer2DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 3,
            "cross_attention_dim": 16,
            "sample_size": 8,
            "patch_size": 2,
            "caption_channels": 12,
            "use_additional_conditions": False,
        },
    ),
    "dit": Tiny(
        "DiTTransformer2DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 3,
            "sample_size": 8,
            "patch_size": 2,
            "num_embeds_ada_norm": 1000,
        },
    ),
    "sd3": Tiny(
        "SD3Transformer2DModel",
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 12,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 10,
            "pos_embed_max_size": 32,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
        },
    ),
    "flux": Tiny(
        "FluxTransformer2DModel",
        {
            "patch_size": 1,
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 12,
            "pooled_projection_dim": 10,
            "guidance_embeds": True,
            "axes_dims_rope": (4, 6, 6),
        },
    ),
    "sana": Tiny(
        "SanaTransformer2DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 8,
            "cross_attention_dim": 16,
            "caption_channels": 12,
            "sample_size": 8,
            "qk_norm": None,
        },
        px=256,
    ),
    "wan": Tiny("WanTransformer3DModel", _WAN, frames=5),
    "wan_i2v": Tiny("WanTransformer3DModel", {**_WAN, "image_dim": 12, "added_kv_proj_dim": 24}, frames=5),
    "cogvideox": Tiny(
        "CogVideoXTransformer3DModel",
        {
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": 16,
            "num_layers": 2,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 5,
            "patch_size": 2,
            "temporal_compression_ratio": 4,
            "max_text_seq_length": TEXT_TOKENS,
        },
        frames=5,
    ),
    "hunyuan_video": Tiny(
        "HunyuanVideoTransformer3DModel",
        {
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "patch_size": 2,
            "patch_size_t": 1,
            "guidance_embeds": True,
            "text_embed_dim": 16,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (4, 6, 6),
        },
        frames=5,
    ),
    "ltx": Tiny(
        "LTXVideoTransformer3DModel",
        {
            "in_channels": 8,
            "out_channels": 8,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "cross_attention_dim": 16,
            "num_layers": 2,
            "caption_channels": 12,
        },
        px=128,
        frames=9,
    ),
    "qwen_image": Tiny(
        "QwenImageTransformer2DModel",
        {
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 12,
            "axes_dims_rope": (4, 6, 6),
        },
    ),
    "sd": Tiny(
        "UNet2DConditionModel",
        {
            **_UNET,
            "block_out_channels": (8, 16, 16),
            "layers_per_block": 2,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        },
    ),
    "sdxl": Tiny(
        "UNet2DConditionModel",
        {
            **_UNET,
            "block_out_channels": (8, 16),
            "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        },
    ),
    "lumina2": Tiny(
        "Lumina2Transformer2DModel",
        {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 24,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "num_attention_heads": 3,
            "num_kv_heads": 1,
            "multiple_of": 16,
            "axes_dim_rope": (4, 2, 2),
            "axes_lens": (32, 16, 16),
            "cap_feat_dim": 16,
        },
    ),
    "z_image": Tiny(
        "ZImageTransformer2DModel",
        {
            "all_patch_size": (2,),
            "all_f_patch_size": (1,),
            "in_channels": 4,
            "dim": 16,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 16,
            "axes_dims": [4, 2, 2],
            "axes_lens": [128, 32, 32],
        },
    ),
    "mochi": Tiny(
        "MochiTransformer3DModel",
        {
            "patch_size": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 3,
            "pooled_projection_dim": 16,
            "in_channels": 4,
            "text_embed_dim": 16,
            "time_embed_dim": 8,
            "max_sequence_length": TEXT_TOKENS,
        },
        frames=7,
    ),
}
TINY |= {name: Tiny(**facts) for name, facts in IMAGES.items()}
