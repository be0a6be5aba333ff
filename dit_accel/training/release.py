"""Turns a finished training run into the folder that ships: weights, licences, samples, report, model card."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from dit_accel.pipelines.generation import generate, generate_images
from dit_accel.pipelines.media import save_video
from dit_accel.prompts import load_prompts
from dit_accel.training.card import run_costs, write_card
from dit_accel.training.data import attribution_text
from dit_accel.training.export import export_pipeline
from dit_accel.training.measure import VIDEO_BATCH_SIZE, MeasureConfig, measure_pipeline
from dit_accel.training.measure_video import measure_video
from dit_accel.training.pretrain import SHEET_SEED, sampling_settings
from dit_accel.training.recipe import EmbeddedRecipe
from dit_accel.training.samples import image_sheet, save_sheet
from dit_accel.training.training_set import TrainingSet, VideoSet

logger = logging.getLogger("dit_accel")

SAMPLE_COLUMNS = 8
VIDEO_COLUMNS, VIDEO_FPS = 4, 8
STILL_VIDEOS, STILL_FRAMES = 6, 6


def export_release(pipe: DiffusionPipeline, recipe: EmbeddedRecipe, prompts: Sequence[str], output: Path) -> None:
    """Write weights, ``ATTRIBUTION.txt`` and ``samples.png``; for videos, ``samples.webp`` too.

    Args:
        pipe: The finished float32 pipeline.
        recipe: Its recipe.
        prompts: Captions of the sample sheet; videos are drawn of the demo list instead.
        output: Folder to write.
    """
    export_pipeline(pipe, output)
    (output / "ATTRIBUTION.txt").write_text(attribution_text(recipe.styles))
    if recipe.video is not None:
        _save_video_samples(pipe, recipe, output)
        return
    seeds = range(SHEET_SEED, SHEET_SEED + len(prompts))
    images = generate_images(pipe, prompts, seeds, sampling_settings(recipe)) * 2 - 1
    save_sheet(images, output / "samples.png", columns=SAMPLE_COLUMNS, zoom=2)


def _save_video_samples(pipe: DiffusionPipeline, recipe: EmbeddedRecipe, output: Path) -> None:
    prompts = load_prompts("demo", "video").prompts
    seeds = range(SHEET_SEED, SHEET_SEED + len(prompts))
    videos = generate(pipe, prompts, seeds, sampling_settings(recipe), batch_size=VIDEO_BATCH_SIZE) * 2 - 1
    grids = [image_sheet(videos[:, k], columns=VIDEO_COLUMNS, zoom=2) for k in range(videos.shape[1])]
    save_video(grids, output / "samples.webp", fps=VIDEO_FPS)
    moments = torch.linspace(0, videos.shape[1] - 1, STILL_FRAMES).round().long()
    stills = videos[:STILL_VIDEOS, moments].flatten(0, 1)
    save_sheet(stills, output / "samples.png", columns=STILL_FRAMES, zoom=2)


def measure_release(
    pipe: DiffusionPipeline,
    recipe: EmbeddedRecipe,
    train: TrainingSet,
    held_out: TrainingSet,
    run_dir: Path,
    output: Path,
    *,
    config: MeasureConfig | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure the pipeline; write ``report.json`` and the model card.

    Args:
        pipe: The pipeline that ``output`` holds.
        recipe: Its recipe.
        train: Training images.
        held_out: Images of the held-out concepts.
        run_dir: Folder of the run, for steps and minutes.
        output: The exported pipeline's folder.
        config: How much to measure.
        notes: Sentences for the card: how this run departed from the recipe.

    Returns:
        The report.
    """
    config = config or MeasureConfig()
    if recipe.video is not None:
        assert isinstance(train, VideoSet) and isinstance(held_out, VideoSet)
        report = measure_video(pipe, recipe, train, held_out, config)
    else:
        report = measure_pipeline(pipe, recipe, train, held_out, config)
    report["cost"] = run_costs(run_dir)
    report["notes"] = list(notes)
    (output / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    counts |= {"train": len({c.name for c in train.concepts}), "held_out": len({c.name for c in held_out.concepts})}
    write_card(output, recipe, report, counts)
    logger.info("model card written to %s", output / "README.md")
    return report
