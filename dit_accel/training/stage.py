"""What the stages of a training share: options, the data and the modules they begin with, the autoencoder."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dit_accel.embedded import embedded_path
from dit_accel.errors import DitAccelError
from dit_accel.training.denoiser import LatentData, TrainingLatents
from dit_accel.training.kinds import KINDS, Tokenizers
from dit_accel.training.loop import TrainLoop
from dit_accel.training.recipe import EmbeddedRecipe
from dit_accel.training.training_set import TrainingSet, VideoSet, training_captions
from dit_accel.training.vae import encode_images
from dit_accel.training.videos import encode_videos


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Where and how to run a recipe; none of it changes what is computed beyond rounding.

    Attributes:
        run_dir: Folder of checkpoints, logs and sample sheets.
        device: Device to train on.
        dtype: Autocast type; ``torch.float32`` turns autocast off.
        resume: Skip finished stages and continue from checkpoints; otherwise stages are trained again.
        max_minutes: Stop each stage, with a checkpoint, after so many minutes.
        deadline: Stop the stage that is running, with a checkpoint, and start no other, when ``time.monotonic()`` has
            this value; in seconds.
        compile_modules: Use ``torch.compile``.
    """

    run_dir: Path
    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    resume: bool = True
    max_minutes: float | None = None
    deadline: float | None = None
    compile_modules: bool = True

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def minutes_left(self) -> float | None:
        """How long a stage that starts now may run; ``None`` is for ever."""
        limits = [] if self.max_minutes is None else [self.max_minutes]
        limits += [] if self.deadline is None else [max(self.deadline - time.monotonic(), 0) / 60]
        return min(limits, default=None)


def untrained(
    recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions
) -> tuple[Tokenizers, dict[str, torch.nn.Module]]:
    """Tokenizers, and the modules as training begins with them, from the recipe's seed."""
    kind = KINDS[recipe.kind]
    tokenizers = kind.build_tokenizers(texts_of(recipe, data))
    torch.manual_seed(recipe.seed)
    modules = kind.build_text_encoders(tokenizers, recipe.text_encoders)
    modules[kind.denoiser_name] = kind.build_denoiser(recipe.denoiser)
    for module in modules.values():
        module.to(options.device)
    return tokenizers, modules


def encode_training_set(
    recipe: EmbeddedRecipe, vae: Any, data: TrainingSet, tokenizers: Tokenizers, options: RunOptions
) -> TrainingLatents:
    """Encode images or videos and their captions once."""
    kind = KINDS[recipe.kind]
    if recipe.video is not None:
        assert isinstance(data, VideoSet)
        phases = recipe.video.phases
        return encode_videos(kind, vae, data, tokenizers, phases, run_dir=options.run_dir, dtype=options.dtype)
    rows = training_captions(recipe, data)
    mean, std = encode_images(vae, data.images)
    scale = vae.config.scaling_factor
    text = kind.tokenize(tokenizers, [*rows.texts, ""])
    return LatentData(
        mean=mean * scale,
        std=std * scale,
        text={name: ids[:-1] for name, ids in text.items()},
        image=rows.image,
        weight=rows.weight,
        empty={name: ids[-1:] for name, ids in text.items()},
    )


def texts_of(recipe: EmbeddedRecipe, data: TrainingSet) -> list[str]:
    """All training captions."""
    return data.captions() if recipe.video is not None else training_captions(recipe, data).texts


def find_vae(recipe: EmbeddedRecipe, run_dir: Path, device: torch.device) -> Any:
    """The autoencoder that the recipe's denoiser works with: the run's own, or that of its ``vae_source``.

    A run of the source beside this one goes before the pipeline that ships, so that both can be trained anew.

    Raises:
        DitAccelError: It has not been trained.
    """
    if recipe.vae_source is None:
        return load_vae(recipe, run_dir / "vae", device)
    for name in ("vae-decoder", "vae"):
        if (run_dir.parent / recipe.vae_source / name).exists():
            return load_vae(recipe, run_dir.parent / recipe.vae_source / name, device)
    return load_vae(recipe, embedded_path(recipe.vae_source) / "vae", device)


def run_loop(loop: TrainLoop, options: RunOptions) -> None:
    """Go on from the checkpoint, unless the options say otherwise, for as long as they say."""
    if options.resume:
        loop.load()
    loop.run(options.minutes_left())


def load_vae(recipe: EmbeddedRecipe, path: Path, device: torch.device) -> Any:
    """A trained autoencoder of the recipe's kind.

    Raises:
        DitAccelError: It is not there.
    """
    if not path.exists():
        raise DitAccelError(f"There is no trained VAE at {path}: run the stage 'vae' first.")
    return KINDS[recipe.kind].autoencoder.load(path).to(device)
