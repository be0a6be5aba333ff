"""The recipes of the embedded pipelines, as data. Trainers read them; nothing here computes."""

from dataclasses import replace
from typing import Any

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.training.erw import ERWConfig
from dit_accel.training.frames import FramePhase, HeadConfig
from dit_accel.training.loop import LoopConfig
from dit_accel.training.recipe import EmbeddedRecipe, VideoRecipe


def _t5(d_model: int, layers: int) -> dict[str, Any]:
    return {
        "d_model": d_model,
        "d_kv": 32,
        "d_ff": 2 * d_model,
        "num_layers": layers,
        "num_heads": d_model // 32,
        "feed_forward_proj": "gated-gelu",
    }


def _clip(hidden_size: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "projection_dim": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden_size // 64,
        "hidden_act": "quick_gelu",
    }


def _unet(channels: tuple[int, ...], *, sample_size: int, text_dim: int) -> dict[str, Any]:
    levels = len(channels)
    return {
        "in_channels": 4,
        "out_channels": 4,
        "sample_size": sample_size,
        "block_out_channels": channels,
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * levels,
        "up_block_types": ("CrossAttnUpBlock2D",) * levels,
        "cross_attention_dim": text_dim,
        "addition_embed_type": "text",  # the caption, pooled, beside the time step: as SDXL's
        "addition_embed_type_num_heads": text_dim // 64,
        "attention_head_dim": tuple(width // 32 for width in channels),  # diffusers' name for the number of heads
        "norm_num_groups": 16,
    }


def _flux(heads: int, double: int, single: int, *, text_dim: int) -> dict[str, Any]:
    return {
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": double,
        "num_single_layers": single,
        "attention_head_dim": 32,
        "num_attention_heads": heads,
        "joint_attention_dim": text_dim,
        "pooled_projection_dim": text_dim,
        "guidance_embeds": True,
        "axes_dims_rope": (8, 12, 12),
    }


def _wan(dim: int, layers: int, *, text_dim: int) -> dict[str, Any]:
    return {
        "num_attention_heads": dim // 64,
        "attention_head_dim": 64,
        "in_channels": 8,
        "out_channels": 8,
        "text_dim": text_dim,
        "freq_dim": 256,
        "ffn_dim": 4 * dim,
        "num_layers": layers,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    }


def _pixart(dim: int, layers: int, *, sample_size: int, patch_size: int, text_dim: int) -> dict[str, Any]:
    return {
        "num_attention_heads": dim // 64,
        "attention_head_dim": 64,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": layers,
        "cross_attention_dim": dim,
        "caption_channels": text_dim,
        "sample_size": sample_size,
        "patch_size": patch_size,
        "interpolation_scale": 1,
    }


MOTION_HEADS = {"frame_head": HeadConfig(block=2, weight=0.1), "path_head": HeadConfig(block=3, weight=0.2)}

EMOJI_PIXART_CPU = EmbeddedRecipe(
    name="emoji-pixart",
    kind="pixart",
    vae={"channels": (24, 48, 64)},
    text_encoders={"text_encoder": _t5(256, 2)},
    denoiser=_pixart(256, 8, sample_size=16, patch_size=2, text_dim=256),
    vae_loop=LoopConfig(steps=2150, batch_size=16, lr=2e-3),
    denoiser_loop=LoopConfig(steps=2850, batch_size=32, lr=6e-4, ema_decay=0.998, sample_minutes=8),
    hold_out_prompts=False,
)
"""One style, 256 concepts, 64 tokens: about an hour and a half on two CPU cores."""

# What to expect of the GPU recipes on one H100, by counting operations: an ESTIMATE, nothing of it has been measured.
#
# | stage | arithmetic a step | expected steps/s | steps | compilation and training |
# |---|---|---|---|---|
# | emoji-pixart, vae | 1.3 TFLOP | 40 to 80 | 4500 | 3 min |
# | emoji-pixart, decoder | 1.1 TFLOP | 45 to 90 | 1200 | 1.5 min |
# | emoji-pixart, denoiser | 5.6 TFLOP | 20 to 35 | 6000 | 5.5 min |
# | emoji-sd, denoiser | 1.1 TFLOP | 35 to 60 | 6000 | 4.5 min |
# | emoji-flux, denoiser | 0.9 TFLOP | 70 to 120 | 6000 | 3 min |
# | emoji-flux, guidance | 1.5 TFLOP | 50 to 80 | 800 | 1.5 min |
#
# At the slow end 19 minutes, so that 6 of 25 are left for a video pipeline. 6000 steps show each image 300 times,
# about as often as the CPU recipes do. Where the clock says otherwise, change ``steps`` (or give ``--steps-scale``).
EMOJI_PIXART_GPU = EmbeddedRecipe(
    name="emoji-pixart",
    kind="pixart",
    styles=("google", "twitter", "fluent-3d"),
    categories=(),
    vae={"channels": (64, 128, 128)},
    text_encoders={"text_encoder": _t5(256, 2)},
    denoiser=_pixart(256, 12, sample_size=16, patch_size=1, text_dim=256),
    vae_loop=LoopConfig(steps=4500, batch_size=64, lr=1e-3, log_steps=250),
    decoder_loop=LoopConfig(steps=1200, batch_size=64, lr=5e-4, log_steps=250),
    denoiser_loop=LoopConfig(steps=6000, batch_size=256, lr=6e-4, ema_decay=0.9995, log_steps=250),
)
"""Three styles, all concepts, 256 tokens. Nobody has run a GPU recipe yet."""

EMOJI_SD_CPU = EmbeddedRecipe(
    name="emoji-sd",
    kind="sd",
    vae_source="emoji-pixart",
    text_encoders={"text_encoder": _clip(256, 3)},
    denoiser=_unet((64, 128, 192), sample_size=16, text_dim=256),
    denoiser_loop=LoopConfig(steps=3600, batch_size=32, lr=6e-4, ema_decay=0.998, sample_minutes=8),
    guidance_scale=4.5,
    num_inference_steps=50,
)
"""One style, 256 concepts: an hour on one CPU core; its card has the minutes."""

EMOJI_SD_GPU = EmbeddedRecipe(
    name="emoji-sd",
    kind="sd",
    styles=("google", "twitter", "fluent-3d"),
    categories=(),
    vae_source="emoji-pixart",
    text_encoders={"text_encoder": _clip(256, 3)},
    denoiser=_unet((64, 128, 160), sample_size=16, text_dim=256),
    denoiser_loop=LoopConfig(steps=6000, batch_size=256, lr=8e-4, ema_decay=0.9995, log_steps=250),
    guidance_scale=4.5,
    num_inference_steps=50,
)
"""Three styles, all concepts; narrower than on the CPU, because the larger autoencoder takes 7 of the 40 MB."""

EMOJI_FLUX_CPU = EmbeddedRecipe(
    name="emoji-flux",
    kind="flux",
    vae_source="emoji-pixart",
    text_encoders={"text_encoder": _clip(256, 2), "text_encoder_2": _t5(256, 2)},
    denoiser=_flux(6, 2, 4, text_dim=256),
    denoiser_loop=LoopConfig(steps=2800, batch_size=32, lr=8e-4, ema_decay=0.998, sample_minutes=6),
    guidance_loop=LoopConfig(steps=300, batch_size=32, lr=3e-4, ema_decay=0.99, sample_minutes=8),
    guidance_scale=3.5,
    num_inference_steps=28,
)
"""One style, 256 concepts, 64 tokens: three quarters of an hour on one CPU core; its card has the minutes."""

EMOJI_FLUX_GPU = EmbeddedRecipe(
    name="emoji-flux",
    kind="flux",
    styles=("google", "twitter", "fluent-3d"),
    categories=(),
    vae_source="emoji-pixart",
    text_encoders={"text_encoder": _clip(256, 2), "text_encoder_2": _t5(256, 2)},
    denoiser=_flux(8, 2, 6, text_dim=256),
    denoiser_loop=LoopConfig(steps=6000, batch_size=256, lr=8e-4, ema_decay=0.9995, log_steps=250),
    guidance_loop=LoopConfig(steps=800, batch_size=256, lr=4e-4, ema_decay=0.995, log_steps=250),
    guidance_scale=3.5,
    num_inference_steps=28,
)
"""Three styles, all concepts."""

EMOJI_WAN_CPU = EmbeddedRecipe(
    name="emoji-wan",
    kind="wan",
    vae={"base_dim": 48, "dim_mult": (1, 2), "z_dim": 8, "patch_size": 2},
    text_encoders={"text_encoder": _t5(192, 2)},
    denoiser=_wan(256, 6, text_dim=192),
    vae_loop=LoopConfig(steps=4500, batch_size=16, lr=1.5e-3),
    denoiser_loop=LoopConfig(steps=5557, batch_size=64, lr=6e-4, ema_decay=0.998, sample_minutes=10),
    video=VideoRecipe(
        phases=(
            FramePhase(until_frac=0.39, frames=((1, 0.5), (4, 0.5))),
            FramePhase(until_frac=0.59, frames=((1, 0.15), (4, 0.75), (16, 0.1))),
            FramePhase(until_frac=0.73, frames=((4, 0.3), (16, 0.7))),
            FramePhase(until_frac=0.89, frames=((4, 0.8), (16, 0.2)), flow_shift=5.0),
            FramePhase(until_frac=1.0, frames=((4, 0.25), (16, 0.75))),
        ),
        heads=MOTION_HEADS,
    ),
    guidance_scale=3.0,
    num_inference_steps=20,
)
"""48 subjects, 1,024 tokens: two hours on one CPU core; its card has the minutes."""

EMOJI_WAN_GPU = EmbeddedRecipe(
    name="emoji-wan",
    kind="wan",
    vae={"base_dim": 48, "dim_mult": (1, 2), "z_dim": 8, "patch_size": 2},
    text_encoders={"text_encoder": _t5(256, 2)},
    denoiser=_wan(320, 7, text_dim=256),
    vae_loop=LoopConfig(steps=6000, batch_size=64, lr=1.5e-3),
    denoiser_loop=LoopConfig(steps=10_000, batch_size=512, lr=6e-4, ema_decay=0.9995),
    video=VideoRecipe(
        subjects=(),
        videos_per_caption=4,
        phases=(
            FramePhase(until_frac=0.2, frames=((1, 0.5), (4, 0.5))),
            FramePhase(until_frac=0.5, frames=((4, 0.75), (16, 0.25))),
            FramePhase(until_frac=1.0, frames=((4, 0.1), (16, 0.9))),
        ),
        heads=MOTION_HEADS,
    ),
    guidance_scale=3.0,
    num_inference_steps=20,
)
"""All animals and foods, mostly whole videos. Meant for one GPU; nobody has run it yet."""

RECIPES: dict[str, dict[str, EmbeddedRecipe]] = {
    "emoji-pixart": {"cpu": EMOJI_PIXART_CPU, "gpu": EMOJI_PIXART_GPU},
    "emoji-sd": {"cpu": EMOJI_SD_CPU, "gpu": EMOJI_SD_GPU},
    "emoji-flux": {"cpu": EMOJI_FLUX_CPU, "gpu": EMOJI_FLUX_GPU},
    "emoji-wan": {"cpu": EMOJI_WAN_CPU, "gpu": EMOJI_WAN_GPU},
}


def get_recipe(name: str, size: str) -> EmbeddedRecipe:
    """Look a recipe up.

    Args:
        name: Name of an embedded pipeline.
        size: ``"cpu"`` or ``"gpu"``.

    Raises:
        ConfigError: Unknown name or size.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"No recipe for an embedded pipeline '{name}'; known: {', '.join(RECIPES)}.{did_you_mean(name, RECIPES)}"
        )
    if size not in RECIPES[name]:
        raise ConfigError(f"Recipe size must be one of {', '.join(RECIPES[name])}, got '{size}'.")
    return RECIPES[name][size]


def scale_steps(recipe: EmbeddedRecipe, factor: float) -> EmbeddedRecipe:
    """Multiply the steps of every stage; the learning-rate curves follow, and warm-ups get shorter but never longer.

    Args:
        recipe: The recipe.
        factor: Above 0; every stage keeps one step at least.

    Raises:
        ConfigError: The factor is not above 0.
    """
    if not factor > 0:
        raise ConfigError(f"The factor of the steps must be above 0, got {factor}.")
    loops: dict[str, Any] = {}
    for field_name in ("vae_loop", "warmup_loop", "decoder_loop", "denoiser_loop", "guidance_loop"):
        loop: LoopConfig | None = getattr(recipe, field_name)
        if loop is not None:
            steps = max(round(loop.steps * factor), 1)
            warmup_steps = max(round(loop.warmup_steps * min(factor, 1)), 1)
            loops[field_name] = replace(loop, steps=steps, warmup_steps=warmup_steps)
    return replace(recipe, **loops)


def with_erw(recipe: EmbeddedRecipe) -> EmbeddedRecipe:
    """The recipe with a representation warm-up of a sixth of the denoiser's steps, each at a fraction of their cost.

    Raises:
        ConfigError: It is of a kind that cannot be warmed up.
    """
    loop = recipe.denoiser_loop
    warmup = replace(
        loop, steps=max(loop.steps // 6, 1), sample_minutes=0, warmup_steps=max(loop.warmup_steps // 6, 1)
    )
    return replace(recipe, erw=ERWConfig(), warmup_loop=warmup)
