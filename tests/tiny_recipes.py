"""Recipes of three steps a stage, one for each kind of pipeline."""

from typing import Any

from dit_accel.training.loop import LoopConfig
from dit_accel.training.recipes import EmbeddedRecipe

LOOP = LoopConfig(steps=3, batch_size=4, lr=1e-3, warmup_steps=2, log_steps=1)
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "projection_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
SHARED: dict[str, Any] = {
    "image_size": 16,
    "vae": {"channels": (8, 8, 8)},
    "vae_loop": LOOP,
    "decoder_loop": LOOP,
    "denoiser_loop": LOOP,
    "num_inference_steps": 2,
}
PIXART = EmbeddedRecipe(
    name="test",
    kind="pixart",
    text_encoders={"text_encoder": T5},
    denoiser={
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "cross_attention_dim": 16,
        "caption_channels": 16,
        "sample_size": 4,
        "patch_size": 2,
    },
    **SHARED,
)
SD = EmbeddedRecipe(
    name="test-sd",
    kind="sd",
    text_encoders={"text_encoder": CLIP},
    denoiser={
        "in_channels": 4,
        "out_channels": 4,
        "sample_size": 4,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
    **SHARED,
)
FLUX = EmbeddedRecipe(
    name="test-flux",
    kind="flux",
    text_encoders={"text_encoder": CLIP, "text_encoder_2": T5},
    denoiser={
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "pooled_projection_dim": 16,
        "guidance_embeds": True,
        "axes_dims_rope": (2, 2, 4),
    },
    guidance_loop=LOOP,
    **SHARED,
)
SMALL = {recipe.kind: recipe for recipe in (PIXART, SD, FLUX)}
