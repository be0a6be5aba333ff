"""A tiny text-to-image pipeline with a real tokenizer and text encoder, so that prompts are words."""

import string
from pathlib import Path

import diffusers
import torch
from tiny_pipelines import tiny_pipeline
from transformers import T5Config, T5EncoderModel, T5Tokenizer

WORDS = ("a", "red", "green", "apple", "owl", "fish", "an")


def tiny_text_pipeline() -> diffusers.PixArtAlphaPipeline:
    """A PixArt-alpha pipeline of 64 x 64 pixels with random weights; two calls give equal pipelines."""
    pipe = tiny_pipeline("pixart")
    assert isinstance(pipe, diffusers.PixArtAlphaPipeline)
    register_text(pipe, pipe.transformer.config.caption_channels)
    return pipe


def tiny_tokenizer() -> T5Tokenizer:
    """Knows ``WORDS``, and spells all others."""
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -60.0)]
    vocab += [(f"▁{word}", -2.0) for word in WORDS] + [(c, -30.0) for c in ("▁", *string.ascii_lowercase)]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=120)


def register_text(pipe: diffusers.DiffusionPipeline, width: int) -> None:
    """Give the pipeline a tokenizer and a T5 encoder whose tokens have ``width`` channels."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
        encoder = T5EncoderModel(config)
    pipe.register_modules(tokenizer=tokenizer, text_encoder=encoder.eval().requires_grad_(False))


def save_tiny_text_pipeline(folder: Path) -> Path:
    """Write the pipeline in diffusers format; returns the folder."""
    tiny_text_pipeline().save_pretrained(folder)
    return folder
