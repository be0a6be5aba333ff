"""A FLUX pipeline with real tokenizers, small enough that a training step takes milliseconds."""

import torch
from diffusers import DiffusionPipeline
from tiny_recipes import FLUX

from dit_accel.training.autoencoders import ImageAutoencoder
from dit_accel.training.kinds import KINDS

PROMPTS = ("a red apple", "a green frog", "an owl")


def tiny_flux() -> DiffusionPipeline:
    """Random weights, the same at each call; 64 x 64 pixels, 64 tokens."""
    kind = KINDS["flux"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizers = kind.build_tokenizers(PROMPTS)
        modules = kind.build_text_encoders(tokenizers, FLUX.text_encoders)
        modules["transformer"] = kind.build_denoiser(FLUX.denoiser)
        torch.nn.init.normal_(modules["transformer"].proj_out.weight, std=0.1)
        vae = ImageAutoencoder().build(64, {"channels": (8, 8, 8)})
    pipe = kind.build_pipeline(vae.eval(), {name: m.eval() for name, m in modules.items()}, tokenizers)
    pipe.set_progress_bar_config(disable=True)
    return pipe
