"""Text that is part of the sequence, on a real model: emoji-flux, 16 tokens of text in front of 64 of the picture."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from sparse_wan import paro, sparse_configs

from dit_accel import VMoBAConfig, accelerate_pipeline, load_embedded, remove_acceleration, summary
from dit_accel.kernels.attention import dense
from dit_accel.passes.attention.layout import TokenLayout
from dit_accel.plan.config import PassConfig
from dit_accel.session.session import session_of

LAYOUT = TokenLayout((1, 8, 8), (0, 16))
KINDS = ["paro_attention", *sparse_configs()]


@pytest.fixture(scope="module")
def pipe() -> Any:
    found = load_embedded("emoji-flux")
    found.set_progress_bar_config(disable=True)
    return found


def draw(pipe: Any) -> torch.Tensor:
    more = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    return pipe("a red apple", **more).images


def config_of(kind: str, pipe: Any, density: float) -> PassConfig:
    if kind == "paro_attention":
        return paro(pipe, density, layout=LAYOUT)
    if kind == "vmoba":
        return VMoBAConfig(density=density, cycle=("spatial",), spatial=(4, 4), dense_steps_frac=0)
    more = {"precision": "plain"} if kind == "static_mask" else {"weights": {}} if kind == "sla" else {}
    return replace(sparse_configs()[kind], density=density, dense_steps_frac=0.0, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_computed_whole_in_both_kinds_of_blocks(kind: str, pipe: Any) -> None:
    plain = draw(pipe)
    accelerate_pipeline(pipe, config_of(kind, pipe, 1.0), strict=True)
    assert torch.allclose(draw(pipe), plain, atol=1e-4)
    accelerate_pipeline(pipe, config_of(kind, pipe, 0.5), strict=True)
    assert (draw(pipe) - plain).abs().max() > 1e-3
    effect = summary(pipe).denoisers[0].effects[kind]
    assert effect.actual_frac == pytest.approx(effect.planned_frac) != 0 and effect.shortfall is None
    passing = session_of(pipe).runtimes[0].around_of(kind)
    kinds = {layer.site_id.split(".")[0] for layer in passing.sparse.layers}
    assert len(passing.sparse.layers) == 6 and len(kinds) == 2, "two double blocks and four single ones"
    q, k, v = (torch.randn(1, 80, 6, 32, generator=torch.Generator().manual_seed(n)) for n in range(3))
    for attend in passing.attends if hasattr(passing, "attends") else passing._attends:
        attend.looks = False  # of Re-ttention: as at a step that is not whole
        with torch.no_grad():
            out = attend(q, k, v, None)
        assert torch.allclose(out[:, :16], dense(q, k, v)[:, :16], atol=1e-4), "queries of text see everything"
        assert (out[:, 16:] - dense(q, k, v)[:, 16:]).abs().max() > 1e-2
    remove_acceleration(pipe)
    assert torch.equal(draw(pipe), plain)
