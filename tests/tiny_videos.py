"""Tiny text-to-video pipelines of every family, from words to frames: real text encoders, real video VAEs."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from tiny_configs import TINY
from tiny_models import randomise
from tiny_pipelines import tiny_pipeline
from tiny_text import register_text, tiny_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel

_BLOCKS = (8, 8, 8, 8)
_VAES: dict[str, tuple[str, dict[str, Any]]] = {
    "cogvideox": (
        "AutoencoderKLCogVideoX",
        {"block_out_channels": _BLOCKS, "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2},
    ),
    "ltx": (
        "AutoencoderKLLTXVideo",
        {
            "latent_channels": 8,
            "block_out_channels": _BLOCKS,
            "decoder_block_out_channels": _BLOCKS,
            "layers_per_block": (1,) * 5,
            "decoder_layers_per_block": (1,) * 5,
            "spatio_temporal_scaling": (True, True, False, False),
            "decoder_spatio_temporal_scaling": (True, True, False, False),
            "patch_size": 1,
        },
    ),
    "hunyuan_video": (
        "AutoencoderKLHunyuanVideo",
        {"block_out_channels": _BLOCKS, "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2},
    ),
    "mochi": (
        "AutoencoderKLMochi",
        {
            "latent_channels": 4,
            "encoder_block_out_channels": (32,) * 4,  # its norms have 32 groups
            "decoder_block_out_channels": (32,) * 4,
            "layers_per_block": (1,) * 5,
            "latents_mean": None,
            "latents_std": None,
        },
    ),
}
_COGVIDEOX_TEXT_TOKENS = 226  # the pipeline pads to them
_TEXT_WIDTHS = {"wan": 16, "cogvideox": 16, "ltx": 12, "mochi": 16}

TINY_VIDEO_NAMES = ("wan", "cogvideox", "ltx", "hunyuan_video", "mochi")


def tiny_video_pipeline(name: str = "wan") -> diffusers.DiffusionPipeline:
    """A text-to-video pipeline with random weights; two calls give equal pipelines."""
    pipe = tiny_pipeline(name)
    if name in _VAES:
        kind, config = _VAES[name]
        vae = randomise(getattr(diffusers, kind)(**config), 1).eval().requires_grad_(False)
        pipe = type(pipe)(**{**pipe.components, "vae": vae})  # it reads the VAE's compression when it is made
        pipe.set_progress_bar_config(disable=True)
    if name == "cogvideox":
        longer = {**TINY[name].config, "max_text_seq_length": _COGVIDEOX_TEXT_TOKENS}
        transformer = randomise(diffusers.CogVideoXTransformer3DModel(**longer), 0).eval().requires_grad_(False)
        pipe.register_modules(transformer=transformer)
    if name == "hunyuan_video":
        _register_hunyuan_text(pipe)
    else:
        register_text(pipe, _TEXT_WIDTHS[name])
    return pipe


def save_tiny_video_pipeline(folder: Path) -> Path:
    """Write the Wan pipeline in diffusers format; returns the folder."""
    tiny_video_pipeline().save_pretrained(folder)
    return folder


def _register_hunyuan_text(pipe: diffusers.DiffusionPipeline) -> None:
    tokenizer = tiny_tokenizer()
    common = {"vocab_size": len(tokenizer), "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        llama = LlamaModel(LlamaConfig(hidden_size=16, **common))
        clip = CLIPTextModel(CLIPTextConfig(hidden_size=8, bos_token_id=0, eos_token_id=1, **common))
    pipe.register_modules(
        tokenizer=tokenizer,
        text_encoder=llama.eval().requires_grad_(False),
        tokenizer_2=tokenizer,
        text_encoder_2=clip.eval().requires_grad_(False),
    )
