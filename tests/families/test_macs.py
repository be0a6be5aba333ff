"""Counted multiply-accumulates equal closed forms, and the published figures of two full-size models."""

from typing import Any

import diffusers
import pytest
import torch
from tiny import TINY_NAMES, tiny_inputs, tiny_model
from torch import nn

from dit_accel.families import Layout, resolve_family
from dit_accel.families.macs import MacsReport, count_macs

STEPS = 20
CFG_BATCH = 2
T = 1e12


def _counted(model_class: str, px: int, text_tokens: int, **config: Any) -> tuple[nn.Module, Layout, MacsReport]:
    with torch.device("meta"):
        model = getattr(diffusers, model_class)(**config)
    family = resolve_family(model)
    inputs = family.sample_inputs(model, height_px=px, width_px=px, batch=CFG_BATCH, text_tokens=text_tokens)
    layout = family.bind(model)
    return model, layout, count_macs(model, layout, inputs)


@pytest.mark.parametrize(
    ("px", "linear", "total"), [(256, 5.713, None), (1024, 85.62, 130.2)], ids=["256px", "1024px"]
)
def test_pixart_xl_equals_the_closed_form_and_the_published_figures(
    px: int, linear: float, total: float | None
) -> None:
    """ECAD counts attentions, feed-forwards and the caption projection, without the attention products."""
    _, layout, report = _counted(
        "PixArtTransformer2DModel",
        px,
        120,
        sample_size=px // 8,
        caption_channels=4096,
        use_additional_conditions=False,
    )
    d, n, m, blocks = 1152, (px // 16) ** 2, 120, 28
    closed_linear = CFG_BATCH * (blocks * (4 * n * d**2 + 2 * n * d**2 + 2 * m * d**2 + 8 * n * d**2))
    closed_linear += CFG_BATCH * m * (4096 * d + d**2)
    products = CFG_BATCH * blocks * (2 * n * n * d + 2 * n * m * d)

    counted = ("self_attn", "cross_attn", "ff")
    ids = [site.id for site in layout.graph if site.kind in counted or site.id == "caption_projection"]
    assert sum(report.sites[i].linear for i in ids) == closed_linear
    assert sum(report.sites[i].attention for i in ids) == products
    assert STEPS * closed_linear / T == pytest.approx(linear, abs=0.006)
    if total is not None:
        assert STEPS * (closed_linear + products) / T == pytest.approx(total, abs=0.06)
    # What the published count leaves out: patch embedding, modulation, output projection.
    assert 1.0 < report.linear / closed_linear < 1.02


@pytest.mark.parametrize(("px", "linear"), [(256, 198.69), (1024, 1190.24)], ids=["256px", "1024px"])
def test_flux_dev_equals_the_published_figures(px: int, linear: float) -> None:
    _, layout, report = _counted("FluxTransformer2DModel", px, 512, guidance_embeds=True)
    d, image, text = 3072, (px // 16) ** 2, 512
    n = image + text
    double = 4 * n * d**2 + 8 * image * d**2 + 8 * text * d**2 + 12 * d**2
    single = 3 * n * d**2 + 4 * n * d**2 + 5 * n * d**2 + 3 * d**2
    blocks = [site.id for site in layout.graph if site.kind == "block"]
    counted = sum(report.sites[i].linear for i in blocks)
    assert counted == CFG_BATCH * (19 * double + 38 * single)
    assert sum(report.sites[i].attention for i in blocks) == CFG_BATCH * 57 * 2 * n * n * d
    # The published figure is that of the whole call, embeddings included.
    assert STEPS * report.linear / T == pytest.approx(linear, abs=0.01)


def test_flux2_dev_equals_the_closed_form() -> None:
    """Every block, double or single, multiplies each token with 13 d² weights."""
    model, layout, report = _counted("Flux2Transformer2DModel", 1024, 512)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(32, abs=0.5)
    d, n, blocks = 6144, 64**2 + 512, 8 + 48
    sites = [site.id for site in layout.graph if site.kind == "block"]
    assert len(sites) == blocks
    assert sum(report.sites[i].linear for i in sites) == CFG_BATCH * blocks * 13 * n * d**2
    assert sum(report.sites[i].attention for i in sites) == CFG_BATCH * blocks * 2 * n * n * d


def test_z_image_equals_the_closed_form() -> None:
    model, layout, report = _counted("ZImageTransformer2DModel", 1024, 512)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(6, abs=0.2)
    d, image, text = 3840, 64**2, 512
    hidden = int(d / 3 * 8)
    # 30 blocks on both, two refiners of the image (with modulation) and two of the text (without).
    tokens = 30 * (image + text) + 2 * image + 2 * text
    modulation = 32 * 256 * 4 * d
    inside = [site.id for site in layout.graph if site.kind == "block" or site.id.startswith("context_refiner")]
    outermost = [i for i in inside if layout.graph.sites[layout.graph.index[i]].parent == "model"]
    linear = CFG_BATCH * (tokens * (4 * d**2 + 3 * d * hidden) + modulation)
    assert sum(report.sites[i].linear for i in outermost) == linear
    products = 30 * (image + text) ** 2 + 2 * image**2 + 2 * text**2
    assert sum(report.sites[i].attention for i in outermost) == CFG_BATCH * 2 * products * d


@pytest.mark.parametrize("name", TINY_NAMES)
def test_every_family_is_counted_and_shares_sum_to_the_total(name: str) -> None:
    model = tiny_model(name)
    layout = resolve_family(model).bind(model)
    inputs = tiny_inputs(name, model)
    report = count_macs(model, layout, inputs)
    assert report.sites["model"].total == report.total > report.linear > 0
    assert sum(report.by_kind(layout.graph).values()) == report.total
    for site in layout.graph:
        if site.parent is not None:
            assert report.sites[site.id].total <= report.sites[site.parent].total
        if site.kind in ("self_attn", "joint_attn", "single_attn", "cross_attn"):
            assert report.sites[site.id].attention > 0, site.id
        if site.kind in ("ff", "resnet", "proj_mlp"):
            assert report.sites[site.id].total == report.sites[site.id].linear > 0, site.id


@pytest.mark.parametrize("name", ["pixart", "sd", "wan"])
def test_counting_computes_nothing_and_leaves_nothing(name: str) -> None:
    model = tiny_model(name)
    layout = resolve_family(model).bind(model)
    inputs = tiny_inputs(name, model)
    with torch.no_grad():
        before = model(**inputs)[0]
    count_macs(model, layout, inputs)
    with torch.no_grad():
        assert torch.equal(model(**inputs)[0], before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_skipped_sites_are_taken_off_once() -> None:
    model = tiny_model("pixart")
    layout = resolve_family(model).bind(model)
    report = count_macs(model, layout, tiny_inputs("pixart", model))
    block, inner = report.sites["blocks.1"], report.sites["blocks.1.attn1"]
    assert report.without(layout.graph, {"blocks.1"}) == report.total - block.total
    assert report.without(layout.graph, {"blocks.1", "blocks.1.attn1"}) == report.total - block.total
    assert report.without(layout.graph, {"blocks.1.attn1"}, linear=True) == report.linear - inner.linear
    assert report.without(layout.graph, set()) == report.total
