"""Linear attention's benchmark and ERW's: what "before" is, how cost grows, and the pages' tables."""

from typing import Any

import erw
import linear
import pytest
import torch
from pages.assembly import assembly_block
from pages.erw import erw_block
from pages.linear import linear_block

from dit_accel import AccelerationPlan, DistilledConfig, LinearAttentionConfig, SLAConfig
from dit_accel.errors import ConfigError

ENVIRONMENT = {"cpu": "a CPU", "torch_threads": 1, "packages": {"torch": "2", "diffusers": "0"}}
WEIGHTS = {f"blocks.1.attn1.{kind}": torch.full((4, 4), 3.0) for kind in ("query", "key")}
SLA_WEIGHTS = {"blocks.0.attn1.weight": torch.ones(4, 4), "blocks.0.attn1.bias": torch.ones(4)}


def test_before_is_the_same_attention_with_nothing_trained() -> None:
    plan = AccelerationPlan(name="a", passes=(DistilledConfig(), LinearAttentionConfig(weights=WEIGHTS)))
    before: Any = linear.untrained(plan)
    assert before.layers == ("blocks.1.attn1",)
    assert all(torch.equal(weight, torch.eye(4)) for weight in before.weights.values())
    assert linear.what(plan, 6) == {"method": "linvideo", "layers": ["blocks.1.attn1"], "of": 6}
    sparse = AccelerationPlan(passes=(DistilledConfig(), SLAConfig(density=0.05, block=32, weights=SLA_WEIGHTS)))
    assert linear.untrained(sparse) == SLAConfig(density=0.05, block=32)
    assert linear.what(sparse, 6)["sparsity"] == 0.95
    with pytest.raises(ConfigError, match="neither linear attention nor sla"):
        linear.untrained(AccelerationPlan(passes=(DistilledConfig(),)))


def test_each_length_is_timed() -> None:
    rows = linear.growth(2, 4, (8, 16), 2)
    assert [row["tokens"] for row in rows] == [8, 16]
    assert all(row["softmax"] > 0 and row["linear"] > 0 for row in rows)


def test_the_tables_say_what_the_reports_say() -> None:
    scores = {"psnr_db": 20.0, "ssim": 0.8, "st_lpips": 0.05}
    better = {"psnr_db": 30.0, "ssim": 0.9}
    data = {
        "model": "emoji-wan", "prompts": "certify", "num": 3, "steps": 12, "frames": 8, "created_utc": "2026-11-30T",
        "environment": ENVIRONMENT, "heads": 4, "head_dim": 64,
        "growth": [{"tokens": 1024, "softmax": 0.02, "linear": 0.01}],
        "plans": {
            "a": {"method": "linvideo", "layers": ["blocks.1.attn1"], "of": 6, "before": scores, "after": better},
            "b": {"method": "sla", "sparsity": 0.95, "layers": [], "of": 6, "before": scores, "after": better},
        },
    }  # fmt: skip
    found = linear_block(data)
    assert "| LinVideo, 1 of 6 | 1 | 20.0 dB | 30.0 dB | 0.800 | 0.900 | 0.050 |  |" in found
    assert "| SLA, 95% left out | all sparse |" in found and "n = 3 prompts of `certify`, 8 frames, 12 steps" in found
    assert "| 1,024 | 20.0 ms | 10.0 ms | 2.00x |" in found
    with pytest.raises(ConfigError, match="not a report"):
        linear_block({"plans": {}})


def test_the_warm_up_is_compared_at_the_same_loss() -> None:
    curve = [[2, 0.9], [4, 0.5], [6, 0.4]]
    assert erw.steps_to(curve, 0.5) == 4 and erw.steps_to(curve, 0.1) is None
    run = {"curve": curve, "warmup_steps": 0, "seconds": {"denoiser": 12.3}}
    data = {
        "model": "emoji-pixart", "batch_size": 16, "held_out_images": 64, "created_utc": "2026-11-30T",
        "environment": ENVIRONMENT, "plain_last_loss": 0.4, "erw_steps_to_it": 6,
        "runs": {"plain": run, "erw": {**run, "warmup_steps": 3}},
    }  # fmt: skip
    found = erw_block(data)
    assert "| without | 0.9000 | 0.5000 | 0.4000 | 0 | denoiser 12 |" in found
    assert "takes 6 steps after it" in found
    assert "is not reached" in erw_block({**data, "erw_steps_to_it": None})
    with pytest.raises(ConfigError, match="not a report"):
        erw_block({"runs": {}})


def test_the_page_shows_what_an_assembled_unet_draws() -> None:
    plain = {"FD-EffNetLite0": 100.04, "coverage": 0.5, "alignment": 0.25, "psnr_db": 100.0}
    data = {
        "created_utc": "2026-01-02T03:04:05", "model": "tiny", "num": 4, "real_pictures": 8, "iterations": 3,
        "batch_size": 2, "train_seconds": 5.4, "macs_saved_in_its_calls_frac": 0.25, "environment": ENVIRONMENT,
        "systems": {"plain, 20 steps": plain, "assembled in all steps": {**plain, "psnr_db": 17.25}},
    }  # fmt: skip
    found = assembly_block(data)
    assert "| plain, 20 steps | 100.0 | 0.500 | 0.250 |  |" in found
    assert "| assembled in all steps | 100.0 | 0.500 | 0.250 | 17.2 dB |" in found and "25% of the arithmetic" in found
    with pytest.raises(ConfigError, match=r"not a report of benchmarks/assembly.py: KeyError\('environment'\)"):
        assembly_block({})
