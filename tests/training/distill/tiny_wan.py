"""A Wan pipeline of a few thousand weights that the distillation trainer understands."""

import sys
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

PROMPTS = ("a red apple moves left", "a frog grows")


def tiny_wan() -> Any:
    """Heads of 16; two frames are 128 tokens."""
    from tiny_recipes import WAN

    from dit_accel.training.autoencoders import FrameAutoencoder
    from dit_accel.training.kinds import KINDS

    kind = KINDS["wan"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizers = kind.build_tokenizers(PROMPTS)
        modules = kind.build_text_encoders(tokenizers, WAN.text_encoders)
        modules["transformer"] = kind.build_denoiser({**WAN.denoiser, "attention_head_dim": 16})
        torch.nn.init.normal_(modules["transformer"].proj_out.weight, std=0.1)
        for block in modules["transformer"].blocks:
            torch.nn.init.normal_(block.attn2.to_out[0].weight, std=0.1)
        vae = FrameAutoencoder().build(64, WAN.vae)
    pipe = kind.build_pipeline(vae.eval(), {name: module.eval() for name, module in modules.items()}, tokenizers)
    pipe.set_progress_bar_config(disable=True)
    return pipe
