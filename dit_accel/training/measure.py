"""Measures a trained text-to-image pipeline against the images it was trained on.

Two questions, as DESIGN.md §4 keeps them apart: does the set of images look like the real set (Fréchet distance on
EfficientNet-Lite0 features), and does an image show what its caption says (nearest real emoji in feature space)?
Each has its floor and its ceiling measured in the same way: an untrained denoiser and the VAE's reconstructions.
"""

import hashlib
import logging
import platform
import time
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline

from dit_accel.evaluation.metrics.concepts import ConceptAccuracy, concept_accuracy
from dit_accel.evaluation.metrics.features import EffNetLite0Features, extract_features
from dit_accel.evaluation.metrics.frechet import NAME_EFFNET_LITE0, frechet_distance
from dit_accel.pipelines.generation import GenerationSettings, generate, makes_video
from dit_accel.training.kinds import KINDS
from dit_accel.training.pretrain import sampling_settings
from dit_accel.training.recipe import EmbeddedRecipe
from dit_accel.training.training_set import TrainingSet
from dit_accel.training.vae import to_unit

logger = logging.getLogger("dit_accel")

REPORT_VERSION = 1
ACCURACY_SALT = "dit-accel-accuracy-1"
BATCH_SIZE, VIDEO_BATCH_SIZE = 32, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureConfig:
    """How much to measure.

    Attributes:
        images: Generated images for the Fréchet distance; captions are gone through in turn.
        captions: Training captions for the concept accuracy, chosen by hash.
        videos: Generated videos, of a pipeline that makes videos; see ``measure_video.py``.
        seed: Image k uses the generator seeded ``seed + k``.
        dtype: Autocast type while generating; ``torch.float32`` turns autocast off.
    """

    images: int = 1000
    captions: int = 200
    videos: int = 100
    seed: int = 10_000
    dtype: torch.dtype = torch.bfloat16


def measure_pipeline(
    pipe: DiffusionPipeline,
    recipe: EmbeddedRecipe,
    train: TrainingSet,
    held_out: TrainingSet,
    config: MeasureConfig,
) -> dict[str, Any]:
    """Measure quality; a quarter of an hour on one CPU core with the default numbers.

    Args:
        pipe: The finished pipeline.
        recipe: Its recipe: steps and guidance are taken from it.
        train: Training images.
        held_out: Images of the held-out concepts.
        config: How much.

    Returns:
        The report, a JSON-ready dict; ``training/card.py`` reads it.
    """
    start = time.monotonic()
    network = EffNetLite0Features().to(pipe.device)
    real = to_unit(train.images)
    captions = train.captions()
    turns = [k % len(captions) for k in range(config.images)]
    prompts = [captions[k] for k in turns]

    settings = sampling_settings(recipe)
    sets = {"generated": draw(pipe, prompts, config, settings)}
    logger.info("measure: %d images drawn after %.0f s", len(prompts), time.monotonic() - start)
    sets["reconstructed"] = _reconstruct(pipe, real[turns], config.seed)
    sets["untrained"] = draw_untrained(pipe, prompts, recipe, config)
    features = {name: extract_features(network, images) for name, images in sets.items()}
    real_features = extract_features(network, real)
    logger.info("measure: features after %.0f s", time.monotonic() - start)

    gallery = torch.cat([real_features, extract_features(network, to_unit(held_out.images))])
    names = [concept.name for concept in train.concepts + held_out.concepts]
    chosen = sorted(range(min(len(captions), config.images)), key=lambda k: _hash(captions[k]))[: config.captions]
    wanted = [train.concepts[k].name for k in chosen]
    accuracy = {name: concept_accuracy(f[chosen], wanted, gallery, names) for name, f in features.items()}
    for name, result in accuracy.items():
        logger.info("measure: %s top-1 %.3f, top-5 %.3f", name, result.top1_frac, result.top5_frac)
    unseen = extract_features(network, draw(pipe, held_out.captions(), config, settings))
    accuracy["held_out"] = concept_accuracy(unseen, [c.name for c in held_out.concepts], gallery, names)

    worst = sorted(zip(accuracy["generated"].ranks, wanted, strict=True), reverse=True)
    return {
        "version": REPORT_VERSION,
        "pipeline": recipe.name,
        "protocol": {
            "images": config.images,
            "real_images": len(real),
            "captions": len(chosen),
            "candidates": accuracy["generated"].candidates,
            "held_out_captions": len(unseen),
            "num_inference_steps": recipe.num_inference_steps,
            "guidance_scale": recipe.guidance_scale,
            "seed": config.seed,
            "dtype": str(config.dtype).removeprefix("torch."),
        },
        "frechet": {
            "name": NAME_EFFNET_LITE0,
            **{name: round(frechet_distance(real_features, f), 3) for name, f in features.items()},
        },
        **concept_shares(accuracy),
        "worst": [{"concept": name, "rank": rank} for rank, name in worst[:10]],
        "environment": environment(pipe, start),
    }


def environment(pipe: DiffusionPipeline, start: float) -> dict[str, Any]:
    """Where it was measured, and how long it took since the monotonic time ``start``."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": str(pipe.device),
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - start),
    }


def concept_shares(accuracy: dict[str, ConceptAccuracy]) -> dict[str, Any]:
    """The parts ``concepts`` and ``chance`` of a report."""
    chance = accuracy["generated"]
    return {
        "concepts": {
            name: {"n": a.n, "top1_frac": round(a.top1_frac, 4), "top5_frac": round(a.top5_frac, 4)}
            for name, a in accuracy.items()
        },
        "chance": {"top1_frac": round(chance.chance_top1_frac, 4), "top5_frac": round(chance.chance_top5_frac, 4)},
    }


def draw(
    pipe: DiffusionPipeline, prompts: list[str], config: MeasureConfig, settings: GenerationSettings
) -> torch.Tensor:
    """Images [M, 3, H, W] or videos [V, F, 3, H, W] in [-1, 1], float32."""
    seeds = range(config.seed, config.seed + len(prompts))
    with torch.autocast(pipe.device.type, config.dtype, enabled=config.dtype != torch.float32):
        batch_size = VIDEO_BATCH_SIZE if makes_video(pipe) else BATCH_SIZE
        return generate(pipe, prompts, seeds, settings, batch_size=batch_size) * 2 - 1


def draw_untrained(
    pipe: DiffusionPipeline, prompts: list[str], recipe: EmbeddedRecipe, config: MeasureConfig
) -> torch.Tensor:
    """An untrained denoiser's last layer is zero, so it predicts zero: no need to run it."""
    denoiser = getattr(pipe, KINDS[recipe.kind].denoiser_name)

    def forward(*args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        sample = next((kwargs[name] for name in ("hidden_states", "sample") if name in kwargs), None)
        return (torch.zeros_like(args[0] if sample is None else sample),)

    denoiser.forward = forward
    try:
        return draw(pipe, prompts, config, sampling_settings(recipe))
    finally:
        del denoiser.forward


@torch.no_grad()
def _reconstruct(pipe: DiffusionPipeline, images: torch.Tensor, seed: int) -> torch.Tensor:
    """Encode, sample the posterior, decode: as many images, in the same turns, as are generated."""
    generator = torch.Generator("cpu").manual_seed(seed)
    parts = []
    for batch in images.split(32):
        latents = pipe.vae.encode(batch.to(pipe.device)).latent_dist.sample(generator)
        parts.append(pipe.vae.decode(latents).sample.float().cpu().clamp(-1, 1))
    return torch.cat(parts)


def _hash(text: str) -> str:
    return hashlib.sha256(f"{ACCURACY_SALT}:{text}".encode()).hexdigest()
