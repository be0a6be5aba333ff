"""CogVideoX: joint attention and feed-forward over text and video, expert adaLN for each (2408.06072)."""

from typing import Any

from torch import nn

from dit_accel.families.base import Family, SiteSpec, Stack, config_of
from dit_accel.families.common import FF, norm, text, video_patch
from dit_accel.families.sample import Sample


def _inputs(model: nn.Module, sample: Sample) -> dict[str, Any]:
    config = config_of(model)
    patch_frames, patch, _ = video_patch(config)
    # CogVideoX 1.5 pads the latent frames to whole temporal patches.
    frames = -(-sample.frames // patch_frames) * patch_frames
    rotary = config["use_rotary_positional_embeddings"]
    # Absolute positions are laid out for prompts padded to the full length.
    text_tokens = sample.text_tokens if rotary else config["max_text_seq_length"]
    inputs: dict[str, Any] = {
        "hidden_states": sample.randn(sample.batch, frames, config["in_channels"], sample.height, sample.width),
        "encoder_hidden_states": sample.randn(sample.batch, text_tokens, config["text_embed_dim"]),
        "timestep": sample.timestep(),
        "return_dict": False,
    }
    if rotary:
        tokens = (frames // patch_frames) * (sample.height // patch) * (sample.width // patch)
        inputs["image_rotary_emb"] = tuple(sample.randn(tokens, config["attention_head_dim"]) for _ in range(2))
    if config["ofs_embed_dim"] is not None:
        inputs["ofs"] = sample.timestep(2.0, sample.dtype)
    return inputs


COGVIDEOX = Family(
    name="cogvideox",
    model_classes=("CogVideoXTransformer3DModel",),
    stacks=(
        Stack(
            path="transformer_blocks",
            alias="blocks",
            streams=("hidden_states", "encoder_hidden_states"),
            sites=(
                # One LayerNorm normalises first the video, then the text; both feed the same reader.
                norm("norm1.norm", "attn1"),
                SiteSpec(path="attn1", kind="joint_attn"),
                norm("norm2.norm", "ff"),
                FF,
            ),
        ),
    ),
    extras=(text("patch_embed.text_proj"),),
    guidance="batched",
    conditioning=("encoder_hidden_states",),
    text="prefix",
    latent_layout="BFCHW",
    patch=video_patch,
    vae_scale=(4, 8),
    text_tokens=226,
    default_px=480,
    default_frames=49,
    make_inputs=_inputs,
)
