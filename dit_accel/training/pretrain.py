"""Trains an embedded pipeline from nothing: tokenizer, VAE, joint text encoder and denoiser, guidance."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

from dit_accel.embedded import load_folder
from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.training.denoiser import denoiser_loop
from dit_accel.training.export import export_pipeline
from dit_accel.training.guidance import guidance_loop
from dit_accel.training.kinds import KINDS
from dit_accel.training.loop import SampleFn
from dit_accel.training.motion_heads import build_heads
from dit_accel.training.progress import STAGES, forget_from, is_done, mark_done
from dit_accel.training.recipe import EmbeddedRecipe
from dit_accel.training.samples import save_sheet, spread
from dit_accel.training.sprites import NUM_FRAMES
from dit_accel.training.stage import RunOptions, encode_training_set, find_vae, load_vae, run_loop, untrained
from dit_accel.training.training_set import TrainingSet
from dit_accel.training.vae import encode_images, vae_loop
from dit_accel.training.warmup import alignment_of, features_of, train_warmup

SHEET_PROMPTS = 24
SHEET_VIDEOS, SHEET_EVERY_FRAMES = 8, 4
SHEET_SEED = 1000


def train_vae(recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions) -> bool:
    """Train the autoencoder and save its average under ``run_dir/vae``; returns whether it is finished."""
    if recipe.vae_loop is None:
        return True
    autoencoder = KINDS[recipe.kind].autoencoder
    torch.manual_seed(recipe.seed)
    vae = autoencoder.build(recipe.image_size, recipe.vae).to(options.device)
    with autoencoder.codec(vae) as codec:
        loop = vae_loop(
            vae, data.images, recipe.vae_loop, run_dir=options.run_dir, seed=recipe.seed, device=options.device,
            dtype=options.dtype, compile_modules=options.compile_modules, codec=None if codec is vae else codec,
        )  # fmt: skip
        run_loop(loop, options)
        with loop.averaged():
            autoencoder.set_statistics(vae, encode_images(codec, data.images)[0])
            vae.save_pretrained(options.run_dir / "vae")
    return loop.finished


def train_decoder(recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions) -> bool:
    """Train the decoder further, latents fixed, into ``run_dir/vae-decoder``; returns whether it is finished."""
    if recipe.decoder_loop is None:
        return True
    vae = load_vae(recipe, options.run_dir / "vae", options.device)
    with KINDS[recipe.kind].autoencoder.codec(vae) as codec:
        loop = vae_loop(
            vae, data.images, recipe.decoder_loop, run_dir=options.run_dir, seed=recipe.seed + 1,
            device=options.device, dtype=options.dtype, compile_modules=options.compile_modules, decoder_only=True,
            codec=None if codec is vae else codec,
        )  # fmt: skip
        run_loop(loop, options)
    with loop.averaged():
        vae.save_pretrained(options.run_dir / "vae-decoder")
    return loop.finished


def train_denoiser(recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions) -> bool:
    """Train text encoders and denoiser, save the average under ``run_dir/pipeline``; returns whether it is finished.

    Raises:
        DitAccelError: The VAE has not been trained, or the first blocks have not been warmed up.
    """
    kind = KINDS[recipe.kind]
    vae = find_vae(recipe, options.run_dir, options.device)
    tokenizers, modules = untrained(recipe, data, options)
    pipe = kind.build_pipeline(vae, modules, tokenizers)
    heads = {} if recipe.video is None else build_heads(modules[kind.denoiser_name], recipe.video.heads, NUM_FRAMES)
    for head in heads.values():
        head.to(options.device)
    latents = encode_training_set(recipe, vae, data, tokenizers, options)
    alignment = None
    if recipe.erw is not None:
        features = features_of(recipe, modules[kind.denoiser_name], data, latents)
        alignment = alignment_of(recipe, modules, features, options)
    loop = denoiser_loop(
        kind, modules, latents, recipe.denoiser_loop, alignment=alignment,
        caption_drop=recipe.caption_drop, run_dir=options.run_dir, seed=recipe.seed, dtype=options.dtype,
        compile_modules=options.compile_modules, heads=heads,
        sample_fn=_sheet_fn(pipe, recipe, data, options, "denoiser"),
    )  # fmt: skip
    run_loop(loop, options)
    with loop.averaged():
        export_pipeline(pipe, options.run_dir / ("pipeline" if recipe.guidance_loop is None else "teacher"))
    return loop.finished


def train_guidance(recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions) -> bool:
    """Distil guidance into ``run_dir/teacher``, as ``run_dir/pipeline``; returns whether it is finished.

    Raises:
        DitAccelError: The denoiser has not been trained.
    """
    if recipe.guidance_loop is None:
        return True
    if not (options.run_dir / "teacher").exists():
        raise DitAccelError(f"There is no trained denoiser in {options.run_dir}: run the stage 'denoiser' first.")
    kind = KINDS[recipe.kind]
    pipe = load_folder(options.run_dir / "teacher").to(options.device)
    modules = {
        name: part
        for name, part in pipe.components.items()
        if name.startswith("text_encoder") or name == kind.denoiser_name
    }
    tokenizers = {name: part for name, part in pipe.components.items() if name.startswith("tokenizer")}
    latents = encode_training_set(recipe, pipe.vae, data, tokenizers, options)
    loop = guidance_loop(
        kind, modules, latents, recipe.guidance_loop, caption_drop=recipe.caption_drop, run_dir=options.run_dir,
        seed=recipe.seed + 2, dtype=options.dtype, compile_modules=options.compile_modules,
        sample_fn=_sheet_fn(pipe, recipe, data, options, "guidance"),
    )  # fmt: skip
    run_loop(loop, options)
    with loop.averaged():
        export_pipeline(pipe, options.run_dir / "pipeline")
    return loop.finished


def train_embedded(
    recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions, stages: Sequence[str] = STAGES
) -> DiffusionPipeline | None:
    """Run the stages of a recipe in order. Resuming, a stage that was finished before is skipped.

    Args:
        recipe: What to train.
        data: Training images, from ``load_training_set``.
        options: Where and how.
        stages: Some of ``STAGES``. Each stage reads what the earlier ones left in ``run_dir``.

    Returns:
        The finished pipeline with the refined decoder, or ``None`` when the time was up before that.

    Raises:
        ConfigError: An unknown stage.
        DitAccelError: A stage lacks the result of an earlier one.
    """
    trainers = {
        "vae": train_vae,
        "warmup": train_warmup,
        "denoiser": train_denoiser,
        "guidance": train_guidance,
        "decoder": train_decoder,
    }
    for stage in stages:
        if stage not in trainers:
            raise ConfigError(f"Unknown training stage '{stage}'; known: {', '.join(STAGES)}.")
    for stage in stages:
        if options.resume and is_done(recipe, stage, options.run_dir):
            continue
        if options.out_of_time:
            return None
        forget_from(stage, options.run_dir)
        if not trainers[stage](recipe, data, options):
            return None
        mark_done(recipe, stage, options.run_dir)
    return assemble(options.run_dir) if (options.run_dir / "pipeline").exists() else None


def assemble(run_dir: Path) -> DiffusionPipeline:
    """Load the trained pipeline of a run, with the refined decoder where there is one."""
    pipe = load_folder(run_dir / "pipeline")
    if (run_dir / "vae-decoder").exists():
        pipe.register_modules(vae=type(pipe.vae).from_pretrained(run_dir / "vae-decoder"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sheet_fn(
    pipe: DiffusionPipeline, recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions, name: str
) -> SampleFn:
    prompts = spread(data.captions(), SHEET_PROMPTS if recipe.video is None else SHEET_VIDEOS)
    settings = sampling_settings(recipe)
    pipe.set_progress_bar_config(disable=True)

    def draw_sheet(step: int) -> None:
        with torch.autocast(options.device.type, options.dtype, enabled=options.dtype != torch.float32):
            drawn = generate(pipe, prompts, range(SHEET_SEED, SHEET_SEED + len(prompts)), settings)
        images = drawn if drawn.dim() == 4 else drawn[:, ::SHEET_EVERY_FRAMES].flatten(0, 1)
        save_sheet(images * 2 - 1, options.run_dir / f"{name}-{step:06d}.png", columns=8, zoom=2)

    return draw_sheet


def sampling_settings(recipe: EmbeddedRecipe) -> GenerationSettings:
    """Steps and guidance of the recipe's sheets and measurements."""
    return GenerationSettings(num_inference_steps=recipe.num_inference_steps, guidance_scale=recipe.guidance_scale)
