"""Waiting for fresh values is exact: what several ranks draw is what one process draws."""

import diffusers
import pytest
import torch
from ranks import apart, drawn, on_ranks, plain
from tiny import tiny_inputs, tiny_model

from dit_accel import PatchParallelConfig, accelerate_pipeline

ROUNDING = 2e-5  # the same sums, by kernels for other sizes
EXACT = {"mode": "sync", "guidance": "off"}
# Tiny pictures have 4 rows of tokens (a UNet 8 rows, of which it makes 2 units); 3 ranks have uneven ones.
CASES = [(name, size) for name in ("pixart", "flux", "wan", "sd3", "dit", "sana") for size in (2, 3)]
CASES += [("sd", 2), ("pixart", 4)]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_rows_of_all_ranks_are_the_picture_of_one(name: str, size: int) -> None:
    expected = plain(name, num_inference_steps=2)
    (made,) = drawn(size, name, EXACT, num_inference_steps=2)
    assert apart(made[0].picture, expected) < ROUNDING
    assert sum(each.sent(op="all_reduce" if name == "sana" else "all_gather", phase="warmup") for each in made) > 0


@pytest.mark.parametrize("name", ["pixart", "wan", "sdxl"])
def test_guidance_on_two_ranks(name: str) -> None:
    expected = plain(name, num_inference_steps=3)
    (made,) = drawn(2, name, {"mode": "stale", "careful": True}, num_inference_steps=3)
    assert apart(made[0].picture, expected) < ROUNDING
    assert made[0].sent(phase="guidance") > 0
    assert not made[0].sent(phase="warmup") and not made[0].sent(phase="steady"), "nothing but outputs is sent"
    if name == "wan":  # the first evaluation shows what the second call is given; from the next on it is split
        assert torch.equal(made[0].picture, expected), "two calls are computed as they always are"
        assert not made[0].sent(phase="guidance", step=0) and made[0].sent(phase="guidance", step=1)


def test_guidance_and_patches_on_four_ranks() -> None:
    for name in ("pixart", "wan"):
        (made,) = drawn(4, name, {"mode": "sync", "careful": True}, num_inference_steps=3)
        assert apart(made[0].picture, plain(name, num_inference_steps=3)) < ROUNDING
        assert made[0].sent(phase="guidance") > 0 and made[0].sent(phase="warmup") > 0


def test_double_precision_leaves_no_doubt() -> None:
    errors = on_ranks(_in_double, 3)
    assert max(errors) < 1e-12


def _in_double(rank: int, size: int) -> float:
    """One call of a UNet in float64, alone and in rows: convolutions, norms and attention are the same sums."""
    unet = tiny_model("sd").double()
    inputs = tiny_inputs("sd", unet)
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].double()
    inputs["sample"] = torch.randn(2, 4, 16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = unet(**inputs)[0]
    scheduler = diffusers.DDIMScheduler()
    scheduler.set_timesteps(5)
    accelerate_pipeline(unet, PatchParallelConfig(mode="sync", guidance="off"), scheduler=scheduler)
    return float((unet(**inputs)[0] - expected).abs().max())
