"""The smallest recipe of each kind, and data for it."""

from typing import Any

import torch

from dit_accel.training.concepts import Concept
from dit_accel.training.frames import FramePhase, HeadConfig
from dit_accel.training.loop import LoopConfig
from dit_accel.training.progress import STAGES
from dit_accel.training.recipe import EmbeddedRecipe, VideoRecipe
from dit_accel.training.sprites import MOTIONS, draw_single_frames
from dit_accel.training.training_set import TrainingSet, VideoSet
from dit_accel.training.video_prompts import VideoCaption

LOOP = LoopConfig(steps=3, batch_size=4, lr=1e-3, warmup_steps=2, log_steps=1)
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
CLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "projection_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
SHARED: dict[str, Any] = {
    "image_size": 16,
    "vae": {"channels": (8, 8, 8)},
    "vae_loop": LOOP,
    "decoder_loop": LOOP,
    "denoiser_loop": LOOP,
    "num_inference_steps": 2,
}
PIXART = EmbeddedRecipe(
    name="test",
    kind="pixart",
    text_encoders={"text_encoder": T5},
    denoiser={
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "cross_attention_dim": 16,
        "caption_channels": 16,
        "sample_size": 4,
        "patch_size": 2,
    },
    **SHARED,
)
SD = EmbeddedRecipe(
    name="test-sd",
    kind="sd",
    text_encoders={"text_encoder": CLIP},
    denoiser={
        "in_channels": 4,
        "out_channels": 4,
        "sample_size": 4,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
    **SHARED,
)
FLUX = EmbeddedRecipe(
    name="test-flux",
    kind="flux",
    text_encoders={"text_encoder": CLIP, "text_encoder_2": T5},
    denoiser={
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "pooled_projection_dim": 16,
        "guidance_embeds": True,
        "axes_dims_rope": (2, 2, 4),
    },
    guidance_loop=LOOP,
    **SHARED,
)
WAN = EmbeddedRecipe(
    name="test-wan",
    kind="wan",
    text_encoders={"text_encoder": T5},
    denoiser={
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 32,
    },
    video=VideoRecipe(
        phases=(
            FramePhase(until_frac=0.5, frames=((1, 0.5), (2, 0.5))),
            FramePhase(until_frac=1, frames=((16, 1.0),)),
        ),
        heads={"frame_head": HeadConfig(block=0, weight=0.1), "path_head": HeadConfig(block=0, weight=0.2)},
    ),
    **SHARED | {"vae": {"base_dim": 8, "z_dim": 4}, "image_size": 64},
)
SMALL = {recipe.kind: recipe for recipe in (PIXART, SD, FLUX, WAN)}
STAGES_OF = {kind: {"vae", "denoiser", "decoder"} for kind in ("pixart", "sd", "wan")} | {
    "flux": set(STAGES) - {"warmup"}
}


def small_data(kind: str) -> TrainingSet:
    stills = images()
    if kind != "wan":
        return stills
    generator = torch.Generator().manual_seed(0)
    subjects = ("red apple", "owl")
    sprites = {subject: torch.rand(4, 20, 20, generator=generator) for subject in subjects}
    videos = [VideoCaption(subject=subject, motion=motion) for subject in subjects for motion in MOTIONS[:3]]
    frames = draw_single_frames(list(sprites.values()), 5, 0)
    return VideoSet(
        images=frames, concepts=stills.concepts, styles=stills.styles, sprites=sprites, videos=videos, seed=0
    )


def images() -> TrainingSet:
    names = ["red apple", "owl", "green tree", "blue fish", "paw prints"]
    pixels = torch.randint(0, 256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    concepts = [Concept(code=str(k), name=name, aliases=(), category="x") for k, name in enumerate(names)]
    return TrainingSet(images=pixels, concepts=concepts, styles=[None] * 5)
