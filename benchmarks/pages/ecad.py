"""ECAD's published multiply-accumulates, counted anew by us on weightless models of the true size.

ECAD (Aggarwal et al., arXiv 2506.15682) states the cost of an uncached run of four settings. Its counter sees linear
layers alone, without the products QKᵀ and AV. Its runs are of batch 2, also for FLUX.1-dev, which needs no second half
for guidance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dit_accel.families import resolve_family
from dit_accel.families.macs import count_macs

STEPS, BATCH = 20, 2
TERA = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One figure of ECAD's.

    Attributes:
        title: Of the model.
        model_class: In diffusers.
        config: Where it differs from the class's defaults, which are those of the full-size model.
        px: Height and width of the picture.
        text_tokens: Prompt length.
        tmacs: The published figure, 10**12 multiply-accumulates of a run of 20 steps at batch 2.
    """

    title: str
    model_class: str
    config: Mapping[str, Any]
    px: int
    text_tokens: int
    tmacs: float


def _pixart(px: int, tmacs: float) -> Published:
    config = {"sample_size": px // 8, "caption_channels": 4096, "use_additional_conditions": False}
    return Published(
        title="PixArt-alpha XL/2",
        model_class="PixArtTransformer2DModel",
        config=config,
        px=px,
        text_tokens=120,
        tmacs=tmacs,
    )


def _flux(px: int, tmacs: float) -> Published:
    return Published(
        title="FLUX.1-dev",
        model_class="FluxTransformer2DModel",
        config={"guidance_embeds": True},
        px=px,
        text_tokens=512,
        tmacs=tmacs,
    )


PUBLISHED = (_pixart(256, 5.713), _pixart(1024, 85.62), _flux(256, 198.69), _flux(1024, 1190.24))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Our count of the same run, 10**12 multiply-accumulates.

    Attributes:
        linear: All linear layers and convolutions of the denoiser: what ECAD counts.
        total: With the products of attention.
    """

    linear: float
    total: float


def counted(published: Published) -> Counted:
    """Count a published run; a model on the meta device has no weights and computes nothing."""
    import diffusers

    with torch.device("meta"):
        model = getattr(diffusers, published.model_class)(**published.config)
    family = resolve_family(model)
    inputs = family.sample_inputs(
        model, height_px=published.px, width_px=published.px, batch=BATCH, text_tokens=published.text_tokens
    )
    report = count_macs(model, family.bind(model), inputs)
    return Counted(linear=STEPS * report.linear / TERA, total=STEPS * report.total / TERA)


def ecad_block() -> str:
    """The four figures beside ours, as Markdown."""
    lines = [
        "| TMACs of 20 steps at batch 2 | ECAD says | ours, linear layers | with attention |",
        "|---|---:|---:|---:|",
    ]
    for each in PUBLISHED:
        ours = counted(each)
        digits = 3 if each.tmacs < 10 else 2
        cells = [f"{value:.{digits}f}" for value in (each.tmacs, ours.linear)]
        more = f"{ours.total:.{digits}f} (+{ours.total / ours.linear - 1:.0%})"
        lines.append(f"| {each.title}, {each.px} px | " + " | ".join([*cells, more]) + " |")
    return "\n".join(lines)
