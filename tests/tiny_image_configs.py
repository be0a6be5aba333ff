"""Configs of tiny image denoisers, as keyword arguments of ``tiny_configs.Tiny``."""

from typing import Any

import torch
from torch import nn

_TEXT_TOKENS = 6


def _aura_flow_inputs(model: nn.Module, generator: torch.Generator, batch: int) -> dict[str, Any]:
    return {
        "hidden_states": torch.randn(batch, 4, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(batch, _TEXT_TOKENS, 16, generator=generator),
        "timestep": torch.full((batch,), 0.5),
        "return_dict": False,
    }


_QWEN_IMAGE: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "axes_dims_rope": (4, 6, 6),
}

IMAGES: dict[str, dict[str, Any]] = {
    # No family describes it: it is discovered.
    "aura_flow": {
        "model_class": "AuraFlowTransformer2DModel",
        "config": {
            "sample_size": 8,
            "patch_size": 2,
            "in_channels": 4,
            "num_mmdit_layers": 2,
            "num_single_dit_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "out_channels": 4,
            "pos_embed_max_size": 64,
        },
        "inputs": _aura_flow_inputs,
    },
    "flux2": {
        "model_class": "Flux2Transformer2DModel",
        "config": {
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 12,
            "timestep_guidance_channels": 8,
            "axes_dims_rope": (4, 4, 4, 4),
        },
    },
    "flux2_klein": {
        "model_class": "Flux2Transformer2DModel",
        "config": {
            "in_channels": 16,
            "num_layers": 1,
            "num_single_layers": 3,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 12,
            "timestep_guidance_channels": 8,
            "axes_dims_rope": (4, 4, 4, 4),
            "guidance_embeds": False,
        },
    },
    "hidream": {
        "model_class": "HiDreamImageTransformer2DModel",
        "config": {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "caption_channels": (12, 16),
            "text_emb_dim": 10,
            "num_routed_experts": 4,
            "num_activated_experts": 2,
            "axes_dims_rope": (4, 2, 2),
            "max_resolution": (32, 32),
            "llama_layers": (0, 1, 2, 2),
        },
    },
    "chroma": {
        "model_class": "ChromaTransformer2DModel",
        "config": {
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 12,
            "axes_dims_rope": (4, 6, 6),
            "approximator_num_channels": 8,
            "approximator_hidden_dim": 16,
            "approximator_layers": 1,
        },
    },
    "cogview4": {
        "model_class": "CogView4Transformer2DModel",
        "config": {
            "patch_size": 2,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 8,
            "num_attention_heads": 2,
            "text_embed_dim": 16,
            "time_embed_dim": 8,
            "condition_dim": 4,
            "sample_size": 8,
            "rope_axes_dim": (16, 16),
        },
    },
    "qwen_image_edit": {"model_class": "QwenImageTransformer2DModel", "config": {**_QWEN_IMAGE, "num_layers": 1}},
    # Edit 2511: the pictures to edit are modulated as for time 0.
    "qwen_image_edit_plus": {
        "model_class": "QwenImageTransformer2DModel",
        "config": {**_QWEN_IMAGE, "num_layers": 2, "zero_cond_t": True},
    },
}
