"""A tiny Wan pipeline whose heads have a kernel, random PARO plans for it, and the settings of the other passes."""

from typing import Any

import diffusers
import torch
from tiny import tiny_call, tiny_pipeline
from tiny_configs import TINY
from tiny_models import randomise

from dit_accel import RettentionConfig, SLAConfig, SparseDConfig, StaticMaskConfig, VMoBAConfig
from dit_accel.families.targets import find_targets
from dit_accel.passes.attention.bits import pack
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.passes.attention.paro_config import PAROAttentionConfig
from dit_accel.passes.attention.routing import routable
from dit_accel.plan.config import PassConfig

BLOCK = 16
SIZE = (3, 8, 8)  # tokens of a call at 128 x 128 and 9 frames: 12 blocks
STEPS = 4


def sparse_wan(head_dim: int = 16) -> Any:
    """Heads of 16, two layers; equal calls give equal pipelines. Products in few bits need heads of 32."""
    pipe = tiny_pipeline("wan")
    model = diffusers.WanTransformer3DModel(**{**TINY["wan"].config, "attention_head_dim": head_dim})
    pipe.register_modules(transformer=randomise(model, 0).eval().requires_grad_(False))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sparse_configs() -> dict[str, PassConfig]:
    """Every other pass that decides on scores, in settings that act on these calls."""
    weights = {
        f"blocks.0.attn1.{kind}": torch.full((16, 16) if kind == "weight" else (16,), 0.1)
        for kind in ("weight", "bias")
    }
    return {
        "sparse_d": SparseDConfig(density=0.25, block=BLOCK, dense_steps_frac=0.25, order="tiles"),
        "sla": SLAConfig(density=0.25, block=BLOCK, weights=weights),
        "vmoba": VMoBAConfig(density=0.25, temporal=1, dense_steps_frac=0),
        "rettention": RettentionConfig(density=0.25, block=BLOCK, dense_steps_frac=0, refresh=2, storage="bfloat16"),
        "static_mask": StaticMaskConfig(density=0.25, block=BLOCK, precision="int8"),
    }


def draw(pipe: Any, name: str = "wan", **more: Any) -> torch.Tensor:
    """One run."""
    size = {"height": 128, "width": 128, "num_frames": 9} if name == "wan" else {}
    call = {**size, "num_inference_steps": STEPS, **more}
    result = pipe(**tiny_call(name, **call))[0]
    return result if isinstance(result, torch.Tensor) else torch.as_tensor(result)


def paro(
    pipe: Any,
    density: float = 0.4,
    *,
    layout: TokenLayout | None = None,
    parts: int = 2,
    seed: int = 0,
    ordered: bool = True,
    block: int = BLOCK,
    **more: Any,
) -> PAROAttentionConfig:
    """Random blocks, every head in an order of its own."""
    layout = layout or TokenLayout(SIZE)
    sites = [(site.info.id, module) for site, module in routable(find_targets(pipe)[0])]
    heads, blocks = sites[0][1].heads, layout.num_blocks(block)
    drawing = torch.Generator().manual_seed(seed)
    mask = torch.rand(parts, len(sites), heads, blocks, blocks, generator=drawing) < density
    mask |= torch.eye(blocks, dtype=torch.bool)
    orders = torch.arange(len(sites) * heads).remainder(5).add(1).view(len(sites), heads) * ordered
    return PAROAttentionConfig(
        grid=layout.size,
        text=layout.text,
        layers=tuple(name for name, _ in sites),
        orders=orders.to(torch.uint8),
        masks=pack(layout.with_text(mask, block).flatten(-2)),
        block=block,
        **more,
    )
