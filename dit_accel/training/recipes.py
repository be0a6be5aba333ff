"""The recipes of the embedded pipelines, as data. Trainers read them; nothing here computes."""

from dataclasses import dataclass, field
from typing import Any

from dit_accel.errors import ConfigError, did_you_mean
from dit_accel.training.data import ANIMALS_AND_FOODS
from dit_accel.training.loop import LoopConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedRecipe:
    """Everything that decides what a training run produces.

    Attributes:
        name: Name of the pipeline, for example ``"emoji-pixart"``.
        styles: Drawing styles, keys of ``dit_accel.training.data.SOURCES``. With more than one, captions name it.
        categories: Emoji categories to train on; empty means all.
        image_size: Edge length in pixels.
        vae: Arguments of ``build_vae``.
        text_encoder: Fields of ``T5Config``.
        denoiser: Fields of the denoiser's config.
        vae_loop: Training of the autoencoder.
        decoder_loop: Further training of its decoder alone, latents fixed; ``None`` skips it.
        denoiser_loop: Joint training of text encoder and denoiser.
        caption_drop: Share of empty captions, for classifier-free guidance.
        seed: Seed of all stages.
        guidance_scale: Default guidance of the saved pipeline's card and sample sheets.
        num_inference_steps: Steps of the saved pipeline's card and sample sheets.
    """

    name: str
    styles: tuple[str, ...] = ("google",)
    categories: tuple[str, ...] = ANIMALS_AND_FOODS
    image_size: int = 64
    vae: dict[str, Any] = field(default_factory=dict)
    text_encoder: dict[str, Any] = field(default_factory=dict)
    denoiser: dict[str, Any] = field(default_factory=dict)
    vae_loop: LoopConfig
    decoder_loop: LoopConfig | None = None
    denoiser_loop: LoopConfig
    caption_drop: float = 0.1
    seed: int = 0
    guidance_scale: float = 4.5
    num_inference_steps: int = 20

    def __post_init__(self) -> None:
        """Check what no component checks."""
        if not self.styles:
            raise ConfigError("A recipe needs at least one style.")
        if not 0 <= self.caption_drop < 1:
            raise ConfigError(f"caption_drop must lie in [0, 1), got {self.caption_drop}.")


def _text_encoder(d_model: int, layers: int) -> dict[str, Any]:
    return {
        "d_model": d_model,
        "d_kv": 32,
        "d_ff": 2 * d_model,
        "num_layers": layers,
        "num_heads": d_model // 32,
        "feed_forward_proj": "gated-gelu",
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


EMOJI_PIXART_CPU = EmbeddedRecipe(
    name="emoji-pixart",
    vae={"channels": (24, 48, 64)},
    text_encoder=_text_encoder(256, 2),
    denoiser=_pixart(256, 8, sample_size=16, patch_size=2, text_dim=256),
    vae_loop=LoopConfig(steps=2150, batch_size=16, lr=2e-3),
    denoiser_loop=LoopConfig(steps=2850, batch_size=32, lr=6e-4, ema_decay=0.998, sample_minutes=8),
)
"""One style, 256 concepts, 64 tokens: about an hour and a half on two CPU cores."""

EMOJI_PIXART_GPU = EmbeddedRecipe(
    name="emoji-pixart",
    styles=("google", "twitter", "fluent-3d"),
    categories=(),
    vae={"channels": (64, 128, 128)},
    text_encoder=_text_encoder(256, 2),
    denoiser=_pixart(256, 12, sample_size=16, patch_size=1, text_dim=256),
    vae_loop=LoopConfig(steps=20_000, batch_size=64, lr=1e-3),
    decoder_loop=LoopConfig(steps=10_000, batch_size=64, lr=5e-4),
    denoiser_loop=LoopConfig(steps=60_000, batch_size=256, lr=6e-4, ema_decay=0.9995),
)
"""Three styles, all concepts, 256 tokens. Written for a GPU; this project has trained only the CPU recipe so far."""

RECIPES: dict[str, dict[str, EmbeddedRecipe]] = {
    "emoji-pixart": {"cpu": EMOJI_PIXART_CPU, "gpu": EMOJI_PIXART_GPU},
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
