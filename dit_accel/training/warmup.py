"""The stage ``warmup``: ERW's first phase, and what the stage ``denoiser`` takes over from it."""

from typing import Any

import torch

from dit_accel.training.denoiser import TrainingLatents
from dit_accel.training.erw import (
    Alignment,
    Projector,
    alexnet_encoder,
    load_warmed,
    save_warmed,
    token_grid,
    unit_features,
    warmup_loop,
)
from dit_accel.training.kinds import KINDS
from dit_accel.training.recipe import EmbeddedRecipe
from dit_accel.training.stage import RunOptions, encode_training_set, find_vae, run_loop, untrained
from dit_accel.training.training_set import TrainingSet


def train_warmup(recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions) -> bool:
    """Warm the denoiser's first blocks up into ``run_dir/warmup.safetensors``; returns whether it is finished.

    Raises:
        DitAccelError: The VAE has not been trained.
        MissingDependencyError: The frozen network's weights are not installed.
    """
    if recipe.erw is None or recipe.warmup_loop is None:
        return True
    kind = KINDS[recipe.kind]
    vae = find_vae(recipe, options.run_dir, options.device)
    tokenizers, modules = untrained(recipe, data, options)
    latents = encode_training_set(recipe, vae, data, tokenizers, options)
    denoiser = modules[kind.denoiser_name]
    features = features_of(recipe, denoiser, data, latents)
    loop = warmup_loop(
        kind, modules, latents, features, recipe.erw, recipe.warmup_loop, run_dir=options.run_dir, seed=recipe.seed,
        dtype=options.dtype,
    )  # fmt: skip
    run_loop(loop, options)
    with loop.averaged():
        save_warmed(denoiser, recipe.erw, options.run_dir)
    return loop.finished


def features_of(recipe: EmbeddedRecipe, denoiser: Any, data: TrainingSet, latents: TrainingLatents) -> torch.Tensor:
    """The frozen network's features of the training images, [M, N, D]."""
    return unit_features(alexnet_encoder(), data.images, token_grid(denoiser, latents.shape))


def alignment_of(
    recipe: EmbeddedRecipe, modules: dict[str, torch.nn.Module], features: torch.Tensor, options: RunOptions
) -> Alignment:
    """The second loss of a recipe with warm-up; its warmed-up blocks are put in.

    Args:
        recipe: With ``erw``.
        modules: Untrained.
        features: From :func:`features_of`.
        options: Of the run whose warm-up it is.
    """
    assert recipe.erw is not None
    denoiser = modules[KINDS[recipe.kind].denoiser_name]
    load_warmed(denoiser, options.run_dir)
    projector = Projector(denoiser, recipe.erw.align_block, features.shape[-1], recipe.erw.width).to(options.device)
    return Alignment(config=recipe.erw, projector=projector, features=features.to(options.device))
