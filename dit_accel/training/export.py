"""Puts trained parts together as a diffusers pipeline and saves it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
from transformers import T5EncoderModel, T5Tokenizer

from dit_accel.training.denoiser import NOISE_SCHEDULE

# The cosine schedule's last log-SNRs are useless to the solver: diffusers' documentation of `lambda_min_clipped`.
LAMBDA_MIN_CLIPPED = -5.1


def build_pipeline(
    *,
    vae: AutoencoderKL,
    text_encoder: T5EncoderModel,
    tokenizer: T5Tokenizer,
    transformer: PixArtTransformer2DModel,
) -> PixArtAlphaPipeline:
    """Make a pipeline with DPM-Solver++ (2M) for the training noise schedule; the parts are shared, not copied."""
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_order=2, lambda_min_clipped=LAMBDA_MIN_CLIPPED, **NOISE_SCHEDULE
    )
    pipe = PixArtAlphaPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def generate(
    pipe: PixArtAlphaPipeline,
    prompts: list[str],
    *,
    seed: int,
    num_inference_steps: int,
    guidance_scale: float,
    batch_size: int = 32,
    **kwargs: Any,
) -> torch.Tensor:
    """Draw one image a prompt.

    Args:
        pipe: The pipeline.
        prompts: M prompts.
        seed: Prompt k uses the generator seeded ``seed + k``, so results do not depend on the batch size.
        num_inference_steps: Solver steps.
        guidance_scale: Classifier-free guidance; 1 turns it off.
        batch_size: Prompts a call.
        **kwargs: Further arguments of the pipeline's call.

    Returns:
        Images in [-1, 1], float32 [M, 3, H, W], on the CPU.
    """
    batches = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        generators = [torch.Generator("cpu").manual_seed(seed + start + k) for k in range(len(part))]
        images = pipe(
            part,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generators,
            clean_caption=False,
            use_resolution_binning=False,
            output_type="pt",
            **kwargs,
        ).images
        batches.append(images.float().cpu() * 2 - 1)
    return torch.cat(batches)


def export_pipeline(pipe: PixArtAlphaPipeline, path: Path) -> None:
    """Save the pipeline with half-precision weights, in plain diffusers format.

    The text encoder's config says float32, so that transformers, which takes the type from the config, loads it in
    the same type as diffusers loads the other parts.

    Args:
        pipe: A float32 pipeline; it is left as it was.
        path: Folder to write; files of a former export are replaced.
    """
    path.mkdir(parents=True, exist_ok=True)
    parts = {"vae": pipe.vae, "transformer": pipe.transformer, "text_encoder": pipe.text_encoder}
    masters = {name: {k: v.detach().clone() for k, v in part.state_dict().items()} for name, part in parts.items()}
    try:
        for part in parts.values():
            torch.nn.Module.to(part, torch.float16)  # the models' own `to` warns about an empty list
        pipe.save_pretrained(path, safe_serialization=True)
    finally:
        for name, part in parts.items():
            torch.nn.Module.to(part, torch.float32)
            part.load_state_dict(masters[name])
    text_config = path / "text_encoder" / "config.json"
    _edit_json(text_config, lambda config: config | {"dtype": "float32"})
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
        if file.suffix == ".json":
            _edit_json(file, lambda config: {k: v for k, v in config.items() if k != "_name_or_path"})


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(edit(json.loads(path.read_text())), indent=2) + "\n")
