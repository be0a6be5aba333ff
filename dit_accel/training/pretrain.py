"""Trains an embedded pipeline from nothing: data, tokenizer, VAE, joint text encoder and denoiser, export."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PixArtAlphaPipeline
from transformers import T5Tokenizer

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.training.captions import caption_rows, tokenize
from dit_accel.training.concepts import Concept, caption, split_concepts
from dit_accel.training.data import default_cache_dir, get_source, load_concepts, load_images
from dit_accel.training.denoiser import LatentData, build_pixart, build_text_encoder, denoiser_loop
from dit_accel.training.export import build_pipeline, export_pipeline, generate
from dit_accel.training.loop import TrainLoop
from dit_accel.training.recipes import EmbeddedRecipe
from dit_accel.training.samples import save_sheet, spread
from dit_accel.training.tokenizer import build_tokenizer
from dit_accel.training.vae import build_vae, encode_images, set_scaling_factor, vae_loop

logger = logging.getLogger("dit_accel")

STAGES = ("vae", "denoiser", "decoder")
SHEET_PROMPTS = 24
SHEET_SEED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Images with their concepts.

    Attributes:
        images: uint8 [M, 3, H, W].
        concepts: Concept of each image, M of them.
        styles: Style words of each image; ``None`` where captions name no style.
    """

    images: torch.Tensor
    concepts: list[Concept]
    styles: list[str | None]

    def captions(self) -> list[str]:
        """Canonical caption of each image, ``"a red apple"``."""
        return [caption(c.name, style=s) for c, s in zip(self.concepts, self.styles, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Where and how to run a recipe; none of it changes what is computed beyond rounding.

    Attributes:
        run_dir: Folder of checkpoints, logs and sample sheets.
        device: Device to train on.
        dtype: Autocast type; ``torch.float32`` turns autocast off.
        resume: Continue from checkpoints; otherwise finished stages are trained again.
        max_minutes: Stop each stage, with a checkpoint, after so many minutes.
        compile_modules: Use ``torch.compile``.
    """

    run_dir: Path
    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    resume: bool = True
    max_minutes: float | None = None
    compile_modules: bool = True


def load_training_set(recipe: EmbeddedRecipe, data_dir: Path | None = None, *, held_out: bool = False) -> TrainingSet:
    """Read the images a recipe trains on (or those it must never see).

    Args:
        recipe: Names styles, categories and size.
        data_dir: Folder of the tarballs; the user's cache by default.
        held_out: Return the held-out concepts instead.
    """
    data_dir = data_dir or default_cache_dir()
    concepts = split_concepts(load_concepts(data_dir, recipe.categories))[1 if held_out else 0]
    images: list[torch.Tensor] = []
    owners: list[Concept] = []
    styles: list[str | None] = []
    for style in recipe.styles:
        found = load_images(data_dir, style, [concept.code for concept in concepts], recipe.image_size)
        present = [concept for concept in concepts if concept.code in found]
        images += [found[concept.code] for concept in present]
        owners += present
        styles += [get_source(style).style if len(recipe.styles) > 1 else None] * len(present)
    return TrainingSet(images=torch.stack(images), concepts=owners, styles=styles)


def train_vae(recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions) -> bool:
    """Train the autoencoder and save its average under ``run_dir/vae``; returns whether it is finished."""
    torch.manual_seed(recipe.seed)
    vae = build_vae(image_size=recipe.image_size, **recipe.vae).to(options.device)
    loop = vae_loop(
        vae, data.images, recipe.vae_loop, run_dir=options.run_dir, seed=recipe.seed, device=options.device,
        dtype=options.dtype, compile_modules=options.compile_modules,
    )  # fmt: skip
    _run(loop, options)
    with loop.averaged():
        mean, _ = encode_images(vae, data.images)
        logger.info("vae: scaling factor %.4f", set_scaling_factor(vae, mean))
        vae.save_pretrained(options.run_dir / "vae")
    return loop.finished


def train_decoder(recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions) -> bool:
    """Train the decoder further, latents fixed, into ``run_dir/vae-decoder``; returns whether it is finished."""
    if recipe.decoder_loop is None:
        return True
    vae = _load_vae(options.run_dir / "vae", options.device)
    loop = vae_loop(
        vae, data.images, recipe.decoder_loop, run_dir=options.run_dir, seed=recipe.seed + 1, device=options.device,
        dtype=options.dtype, compile_modules=options.compile_modules, decoder_only=True,
    )  # fmt: skip
    _run(loop, options)
    with loop.averaged():
        vae.save_pretrained(options.run_dir / "vae-decoder")
    return loop.finished


def train_denoiser(recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions) -> bool:
    """Train text encoder and denoiser, save the average under ``run_dir/pipeline``; returns whether it is finished.

    Raises:
        DitAccelError: The VAE has not been trained.
    """
    vae = _load_vae(options.run_dir / "vae", options.device)
    rows = caption_rows(data.concepts, data.styles)
    tokenizer = build_tokenizer(rows.texts)
    torch.manual_seed(recipe.seed)
    text_encoder = build_text_encoder(len(tokenizer), recipe.text_encoder).to(options.device)
    transformer = build_pixart(recipe.denoiser).to(options.device)
    pipe = build_pipeline(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer)
    prompts = spread(data.captions(), SHEET_PROMPTS)

    def draw_sheet(step: int) -> None:
        images = generate(
            pipe, prompts, seed=SHEET_SEED, num_inference_steps=recipe.num_inference_steps,
            guidance_scale=recipe.guidance_scale, max_sequence_length=24,
        )  # fmt: skip
        save_sheet(images, options.run_dir / f"denoiser-{step:06d}.png", columns=8, zoom=2)

    loop = denoiser_loop(
        text_encoder, transformer, encode_training_set(vae, data, tokenizer), recipe.denoiser_loop,
        caption_drop=recipe.caption_drop, run_dir=options.run_dir, seed=recipe.seed, dtype=options.dtype,
        compile_modules=options.compile_modules, sample_fn=draw_sheet,
    )  # fmt: skip
    _run(loop, options)
    with loop.averaged():
        export_pipeline(pipe, options.run_dir / "pipeline")
    return loop.finished


def encode_training_set(vae: AutoencoderKL, data: TrainingSet, tokenizer: T5Tokenizer) -> LatentData:
    """Encode images and captions once."""
    mean, std = encode_images(vae, data.images)
    rows = caption_rows(data.concepts, data.styles)
    input_ids, attention_mask = tokenize(tokenizer, rows.texts)
    empty = tokenizer([""], padding="max_length", max_length=input_ids.shape[1], return_tensors="pt")
    scale = vae.config.scaling_factor
    return LatentData(
        mean=mean * scale,
        std=std * scale,
        input_ids=input_ids,
        attention_mask=attention_mask,
        image=rows.image,
        weight=rows.weight,
        empty_ids=empty.input_ids[0],
        empty_mask=empty.attention_mask[0],
    )


def train_embedded(
    recipe: EmbeddedRecipe, data: TrainingSet, options: RunOptions, stages: Sequence[str] = STAGES
) -> PixArtAlphaPipeline | None:
    """Run the stages of a recipe in order.

    Args:
        recipe: What to train.
        data: Training images, from ``load_training_set``.
        options: Where and how.
        stages: Some of ``STAGES``. Each stage reads what the earlier ones left in ``run_dir``.

    Returns:
        The finished pipeline with the refined decoder, or ``None`` when ``max_minutes`` ended a stage early.

    Raises:
        ConfigError: An unknown stage.
        DitAccelError: A stage lacks the result of an earlier one.
    """
    trainers = {"vae": train_vae, "denoiser": train_denoiser, "decoder": train_decoder}
    for stage in stages:
        if stage not in trainers:
            raise ConfigError(f"Unknown training stage '{stage}'; known: {', '.join(STAGES)}.")
    for stage in stages:
        if not trainers[stage](recipe, data, options):
            return None
    return assemble(options.run_dir) if (options.run_dir / "pipeline").exists() else None


def assemble(run_dir: Path) -> PixArtAlphaPipeline:
    """Load the trained pipeline of a run, with the refined decoder where there is one."""
    pipe = PixArtAlphaPipeline.from_pretrained(run_dir / "pipeline", dtype=torch.float32)
    if (run_dir / "vae-decoder").exists():
        pipe.register_modules(vae=_load_vae(run_dir / "vae-decoder", torch.device("cpu")))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _run(loop: TrainLoop, options: RunOptions) -> None:
    if options.resume:
        loop.load()
    loop.run(options.max_minutes)


def _load_vae(path: Path, device: torch.device) -> AutoencoderKL:
    if not path.exists():
        raise DitAccelError(f"There is no trained VAE at {path}: run the stage 'vae' first.")
    return AutoencoderKL.from_pretrained(path).to(device)
