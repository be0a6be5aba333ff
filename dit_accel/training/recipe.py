"""What a recipe is."""

from dataclasses import dataclass, field
from typing import Any

from dit_accel.errors import ConfigError
from dit_accel.training.data import ANIMALS_AND_FOODS
from dit_accel.training.erw import ERWConfig
from dit_accel.training.frames import FramePhase, HeadConfig
from dit_accel.training.loop import LoopConfig
from dit_accel.training.sprites import SUBJECTS


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRecipe:
    """The videos a pipeline is trained on.

    Attributes:
        subjects: Names of training concepts; empty means all.
        videos_per_caption: Different videos of each caption.
        phases: How many frames the denoiser's training steps see, in order.
        heads: Auxiliary losses, by the names that ``build_heads`` knows.
        single_frames: Frames of such videos that the autoencoder is trained on,
        still_repeats: besides each training image in full size, so many times.
        video_seed: Video k is the one that the seed ``video_seed + k`` names,
        held_out_seed: or ``held_out_seed + k`` of the videos that measure.
    """

    subjects: tuple[str, ...] = SUBJECTS
    videos_per_caption: int = 10
    phases: tuple[FramePhase, ...]
    heads: dict[str, HeadConfig] = field(default_factory=dict)
    single_frames: int = 12_000
    still_repeats: int = 4
    video_seed: int = 1_000_000
    held_out_seed: int = 9_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedRecipe:
    """Everything that decides what a training run produces.

    Attributes:
        name: Name of the pipeline, for example ``"emoji-pixart"``.
        kind: A key of ``dit_accel.training.kinds.KINDS``.
        styles: Drawing styles, keys of ``dit_accel.training.data.SOURCES``. With more than one, captions name it.
        categories: Emoji categories to train on; empty means all.
        image_size: Edge length in pixels.
        vae: Arguments of ``build_vae`` or ``build_video_vae``; unused with ``vae_source``.
        vae_source: Embedded pipeline whose trained autoencoder is taken over; ``None`` trains one.
        text_encoders: Config fields of each text encoder, by component name.
        denoiser: Fields of the denoiser's config.
        vae_loop: Training of the autoencoder.
        decoder_loop: Further training of its decoder alone, latents fixed; ``None`` skips it.
        erw: Representation warm-up of the denoiser's first blocks, with ``warmup_loop``; ``None`` leaves it out.
        warmup_loop: Length and rates of the warm-up.
        denoiser_loop: Joint training of text encoder and denoiser.
        guidance_loop: Distillation of guidance into the denoiser's guidance input; ``None`` skips it.
        caption_drop: Share of empty captions, for classifier-free guidance.
        video: What the videos are, of a kind that makes videos.
        hold_out_prompts: Never train on a caption of ``dit_accel/prompts``, word for word.
        seed: Seed of all stages.
        guidance_scale: Default guidance of the saved pipeline's card and sample sheets.
        num_inference_steps: Steps of the saved pipeline's card and sample sheets.
    """

    name: str
    kind: str
    styles: tuple[str, ...] = ("google",)
    categories: tuple[str, ...] = ANIMALS_AND_FOODS
    image_size: int = 64
    vae: dict[str, Any] = field(default_factory=dict)
    vae_source: str | None = None
    text_encoders: dict[str, dict[str, Any]] = field(default_factory=dict)
    denoiser: dict[str, Any] = field(default_factory=dict)
    vae_loop: LoopConfig | None = None
    decoder_loop: LoopConfig | None = None
    erw: ERWConfig | None = None
    warmup_loop: LoopConfig | None = None
    denoiser_loop: LoopConfig
    guidance_loop: LoopConfig | None = None
    caption_drop: float = 0.1
    video: VideoRecipe | None = None
    hold_out_prompts: bool = True
    seed: int = 0
    guidance_scale: float = 4.5
    num_inference_steps: int = 20

    def __post_init__(self) -> None:
        """Check what no component checks."""
        if not self.styles:
            raise ConfigError("A recipe needs at least one style.")
        if (self.vae_loop is None) == (self.vae_source is None):
            raise ConfigError("A recipe either trains its autoencoder (vae_loop) or takes one over (vae_source).")
        if (self.erw is None) != (self.warmup_loop is None):
            raise ConfigError("A recipe has both of 'erw' and 'warmup_loop', or neither.")
        if self.erw is not None and self.kind != "pixart":
            raise ConfigError(f"Representation warm-up is made for the kind 'pixart', not for '{self.kind}'.")
        if not 0 <= self.caption_drop < 1:
            raise ConfigError(f"caption_drop must lie in [0, 1), got {self.caption_drop}.")
