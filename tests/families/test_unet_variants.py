"""UNets off the beaten track: class labels, no mid block, added-key attention, text in attn1, deeper stacks."""

from typing import Any

import diffusers
import pytest
from tiny_configs import TINY
from tiny_models import randomise

from dit_accel.families import resolve_family
from dit_accel.families.check import check_family

VARIANTS: dict[str, dict[str, Any]] = {
    "class_labels": {"num_class_embeds": 5},
    "projected_class": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 12},
    "lcm": {"time_cond_proj_dim": 8},
    "no_mid_block": {"mid_block_type": None},
    "only_cross_attention": {"only_cross_attention": (True, False, False)},
    "deeper_transformers": {"transformer_layers_per_block": (1, 2, 1)},
    "simple_cross_attention": {
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "encoder_hid_dim": 16,
    },
    "unequal_layers": {"layers_per_block": (1, 2, 1)},
}


# k-diffusion's blocks hand on to each other in another way; a tiny one binds, but diffusers cannot run it so small.
_K_BLOCKS: dict[str, Any] = {
    "down_block_types": ("KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"),
    "up_block_types": ("KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KUpBlock2D"),
    "mid_block_type": None,
    "time_embedding_type": "fourier",
    "resnet_time_scale_shift": "scale_shift",
    "conv_in_kernel": 1,
    "conv_out_kernel": 1,
    "block_out_channels": (32, 32, 32),
    "attention_head_dim": 16,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name: str) -> None:
    unet = diffusers.UNet2DConditionModel(**{**TINY["sd"].config, **VARIANTS[name]})
    model = randomise(unet, 0).eval().requires_grad_(False)
    family = resolve_family(model)
    inputs = family.sample_inputs(model, height_px=64, width_px=64, batch=1, text_tokens=6)
    assert check_family(model, family, inputs) == ()


def test_unknown_blocks_name_no_readers() -> None:
    model = diffusers.UNet2DConditionModel(**{**TINY["sd"].config, **_K_BLOCKS})
    layout = resolve_family(model).bind(model)
    assert layout.graph.select(kinds=("resnet",))
    assert not any(site.feeds for site in layout.graph if not site.auxiliary)
