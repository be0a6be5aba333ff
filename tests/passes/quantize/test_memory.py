"""Four bits make every embedded pipeline at least three times smaller than bf16, and eight bits 1.8 times."""

from typing import Any

import pytest
import torch

from dit_accel import QuantizeConfig, accelerated, load_embedded
from dit_accel.passes.quantize.replaced import bytes_of

WAN = {"transformer.condition_embedder.time_proj": "w8a16"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("emoji-flux", {}),
        ("emoji-pixart", {}),
        ("emoji-sd", {"convs": "w4a8"}),
        ("emoji-wan", {"layers": WAN}),
    ],
)
def test_bytes_of_embedded_pipelines(model: str, more: dict[str, Any]) -> None:
    pipe = load_embedded(model).to(torch.bfloat16)
    denoiser = getattr(pipe, "transformer", None) or pipe.unet
    before = bytes_of(denoiser)
    with accelerated(pipe, [QuantizeConfig(bits="w4a8", backend="integers", **more)]):
        assert before / bytes_of(denoiser) >= 3
    with accelerated(pipe, [QuantizeConfig(bits="w8a8", backend="integers")]):
        assert before / bytes_of(denoiser) >= 1.8
    assert bytes_of(denoiser) == before
