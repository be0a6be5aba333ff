"""Measures a trained text-to-video pipeline against the sprite videos it was trained on.

Three questions: does it move as the caption says (``evaluation/motion.py``), is it the right thing (nearest real
sprite in feature space), and do the frames look like real ones (Fréchet distance)? Captions are combinations of
subject and motion that training never saw. Floor and ceiling of each are measured in the same way: an untrained
denoiser, and the autoencoder's reconstructions of real videos with the same captions.
"""

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline

from dit_accel.evaluation.metrics.concepts import concept_accuracy
from dit_accel.evaluation.metrics.features import EffNetLite0Features, extract_features
from dit_accel.evaluation.metrics.frechet import NAME_EFFNET_LITE0, frechet_distance
from dit_accel.evaluation.metrics.motion import MotionScore, crop_foreground, motion_score
from dit_accel.training.measure import REPORT_VERSION, MeasureConfig, concept_shares, draw, draw_untrained, environment
from dit_accel.training.pretrain import sampling_settings
from dit_accel.training.recipe import EmbeddedRecipe
from dit_accel.training.training_set import VideoSet
from dit_accel.training.vae import to_unit
from dit_accel.training.video_prompts import VideoCaption
from dit_accel.training.video_vae import decode_frames, encode_frames

logger = logging.getLogger("dit_accel")

FRAMES_A_VIDEO = 4
"""Frames of each video that enter the Fréchet distance, evenly spread."""
REAL_VIDEOS = 250
GALLERY_VIDEOS = 5
"""Real videos of each subject whose middle frames are the gallery of the concept accuracy."""


def measure_video(
    pipe: DiffusionPipeline, recipe: EmbeddedRecipe, train: VideoSet, held_out: VideoSet, config: MeasureConfig
) -> dict[str, Any]:
    """Measure quality; a quarter of an hour on one CPU core with the default numbers.

    Args:
        pipe: The finished pipeline.
        recipe: Its recipe: steps and guidance are taken from it.
        train: Training videos.
        held_out: New videos with held-out captions; the first ``config.videos`` captions are generated.
        config: How much.

    Returns:
        The report, a JSON-ready dict; ``training/card_video.py`` reads it.
    """
    start = time.monotonic()
    videos = held_out.videos[: config.videos]
    prompts = [video.text for video in videos]
    real = to_unit(torch.stack([held_out.draw_video(k) for k in range(len(videos))]))
    sets = {"generated": draw(pipe, prompts, config, sampling_settings(recipe))}
    logger.info("measure: %d videos drawn after %.0f s", len(prompts), time.monotonic() - start)
    sets["reconstructed"] = _reconstruct(pipe, real)
    sets["untrained"] = draw_untrained(pipe, prompts, recipe, config)
    scores = {name: _score(clips, videos) for name, clips in (sets | {"real": real}).items()}
    motion = {name: _shares(found) for name, found in scores.items()}
    logger.info("measure: motion %s", motion)

    network = EffNetLite0Features().to(pipe.device)
    turns = [k * len(train.videos) // REAL_VIDEOS for k in range(REAL_VIDEOS)]
    real_frames = _some_frames(to_unit(torch.stack([train.draw_video(k) for k in turns])))
    real_features = extract_features(network, real_frames)
    frechet = {
        name: round(frechet_distance(real_features, extract_features(network, _some_frames(clips))), 3)
        for name, clips in sets.items()
    }
    gallery, names = _gallery(train)
    gallery_features = extract_features(network, gallery)
    wanted = [video.subject for video in videos]
    accuracy = {
        name: concept_accuracy(extract_features(network, _middle(clips)), wanted, gallery_features, names)
        for name, clips in sets.items()
    }
    logger.info("measure: features after %.0f s", time.monotonic() - start)
    return {
        "version": REPORT_VERSION,
        "pipeline": recipe.name,
        "protocol": {
            "videos": len(videos),
            "frames": real.shape[1],
            "images": len(videos) * FRAMES_A_VIDEO,
            "real_images": len(real_frames),
            "captions": "the first of prompts/video/certify.json",
            "candidates": accuracy["generated"].candidates,
            "gallery_images": len(gallery),
            "num_inference_steps": recipe.num_inference_steps,
            "guidance_scale": recipe.guidance_scale,
            "seed": config.seed,
            "dtype": str(config.dtype).removeprefix("torch."),
        },
        "motion": motion,
        "motion_by_direction": _by_direction(scores["generated"], videos),
        "frechet": {"name": NAME_EFFNET_LITE0, **frechet},
        **concept_shares(accuracy),
        "autoencoder": _autoencoder_error(real, sets["reconstructed"]),
        "wrong": [
            {"caption": video.text, "direction": score.direction, "scale": score.scale}
            for video, score in zip(videos, scores["generated"], strict=True)
            if not score.right
        ],
        "environment": environment(pipe, start),
    }


def _score(clips: torch.Tensor, videos: Sequence[VideoCaption]) -> list[MotionScore]:
    pairs = zip((clips + 1) / 2, videos, strict=True)
    return [motion_score(clip, video.motion.direction, video.motion.scale) for clip, video in pairs]


def _shares(scores: Sequence[MotionScore]) -> dict[str, float]:
    n = len(scores)
    return {
        "n": n,
        "direction_frac": round(sum(score.direction_right for score in scores) / n, 4),
        "scale_frac": round(sum(score.scale_right for score in scores) / n, 4),
        "both_frac": round(sum(score.right for score in scores) / n, 4),
    }


def _by_direction(scores: Sequence[MotionScore], videos: Sequence[VideoCaption]) -> dict[str, dict[str, float]]:
    found: dict[str, list[MotionScore]] = {}
    for score, video in zip(scores, videos, strict=True):
        found.setdefault(video.motion.direction, []).append(score)
    return {direction: _shares(some) for direction, some in sorted(found.items())}


def _some_frames(clips: torch.Tensor) -> torch.Tensor:
    return clips[:, torch.linspace(0, clips.shape[1] - 1, FRAMES_A_VIDEO).round().long()].flatten(0, 1)


def _middle(clips: torch.Tensor) -> torch.Tensor:
    """Middle frames, cropped to the foreground: where and how large it is says nothing about what it is."""
    return torch.stack([crop_foreground((clip[len(clip) // 2] + 1) / 2) for clip in clips]) * 2 - 1


def _gallery(train: VideoSet) -> tuple[torch.Tensor, list[str]]:
    clips, names = [], []
    for subject in train.sprites:
        chosen = [k for k, video in enumerate(train.videos) if video.subject == subject][:GALLERY_VIDEOS]
        clips += [train.draw_video(k) for k in chosen]
        names += [subject] * len(chosen)
    return _middle(to_unit(torch.stack(clips))), names


def _reconstruct(pipe: DiffusionPipeline, real: torch.Tensor) -> torch.Tensor:
    frames = ((real.flatten(0, 1) + 1) * 127.5).round().to(torch.uint8)
    return decode_frames(pipe.vae, encode_frames(pipe.vae, frames, torch.float32)).view_as(real)


def _autoencoder_error(real: torch.Tensor, reconstructed: torch.Tensor) -> dict[str, float]:
    """PSNR, and flicker: by how much the error changes from frame to frame, beside the change of the real frames."""
    error = reconstructed - real
    psnr = -10 * (error.square().mean(dim=(1, 2, 3, 4)) / 4).log10()
    return {
        "psnr_db": round(float(psnr.mean()), 2),
        "flicker_of_255": round(float(error.diff(dim=1).abs().mean()) * 127.5, 3),
        "real_change_of_255": round(float(real.diff(dim=1).abs().mean()) * 127.5, 3),
    }
