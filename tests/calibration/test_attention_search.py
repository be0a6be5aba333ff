"""Budgets of layers against brute force, published scores on known heads, and a calibration from end to end."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dit_accel import (
    TrajectoryConfig,
    accelerate_pipeline,
    certify,
    load_embedded,
    remove_acceleration,
    summary,
)
from dit_accel.calibration import attention_search
from dit_accel.calibration.attention_budget import Sensitivity, divide, measure_sensitivity, with_budget
from dit_accel.calibration.attention_published import order_scores, published_orders
from dit_accel.calibration.attention_record import AttentionRecord, record_attention
from dit_accel.calibration.attention_search import _sparse_steps, calibrate_attention
from dit_accel.errors import ConfigError
from dit_accel.evaluation.reports.report import Report
from dit_accel.passes.attention.layout import ORDER_NAMES, TokenLayout
from dit_accel.passes.attention.static_mask import StaticMaskConfig
from dit_accel.pipelines.generation import GenerationSettings
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.plan import AccelerationPlan

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "passes" / "attention"))
from sparse_wan import BLOCK, draw, sparse_wan


def test_a_budget_is_divided_as_well_as_can_be() -> None:
    ladder = (0.1, 0.3, 0.5, 1.0)
    drawing = np.random.default_rng(0)
    errors = np.sort(drawing.random((1, 4, 4)), axis=-1)[..., ::-1].copy()
    errors[..., -1] = 0
    for density in (0.1, 0.25, 0.4, 0.7, 1.0):
        found = divide(Sensitivity(ladder=ladder, errors=errors), density)
        choices = [
            (sum(errors[0, layer, place] for layer, place in enumerate(each)), each)
            for each in itertools.product(range(4), repeat=4)
            if sum(ladder[place] for place in each) <= 4 * density + 1e-9
        ]
        cost = sum(errors[0, layer, ladder.index(share)] for layer, share in enumerate(found[0]))
        assert cost == pytest.approx(min(choices)[0]) and found.mean() <= density + 1e-9
    with pytest.raises(ConfigError, match=r"below the lowest that layers can be given, 0\.1"):
        divide(Sensitivity(ladder=ladder, errors=errors), 0.05)


def test_parts_whose_errors_stay_get_more() -> None:
    errors = np.array([[[4.0, 1.0, 0.0]], [[4.0, 1.0, 0.0]]])
    sensitivity = Sensitivity(ladder=(0.2, 0.5, 1.0), errors=errors)
    early = divide(sensitivity, 0.6, gains=[3.0, 0.1])
    assert early[0, 0] == 1.0 and early[1, 0] == 0.2
    assert divide(sensitivity, 0.6, gains=[0.1, 3.0])[1, 0] == 1.0


def test_steps_that_are_dense_take_nothing_of_the_budget() -> None:
    errors = np.array([[[4.0, 1.0, 0.0]], [[4.0, 1.0, 0.0]]])
    sensitivity = Sensitivity(ladder=(0.2, 0.6, 1.0), errors=errors)
    gains = [3.0, 0.1]  # by them alone the first part is given everything
    never = divide(sensitivity, 0.6, gains=gains, sparse_steps=[0, 5])
    assert never[1, 0] == 0.6 and never[0, 0] == 0.6, "and what is never used is as what follows"
    half = divide(sensitivity, 0.6, gains=gains, sparse_steps=[1, 4])
    assert half[0, 0] == 1.0 and half[1, 0] == 0.2
    assert divide(sensitivity, 0.75, gains=gains, sparse_steps=[1, 4]).tolist() == [[1.0], [0.6]]
    assert (divide(sensitivity, 0.2, sparse_steps=[3, 7]) == 0.2).all(), "the lowest one fits"
    fourth = Conditions(num_steps=10)
    assert _sparse_steps(fourth, 4, 0.0) == [3, 2, 3, 2] and _sparse_steps(fourth, 4, 0.4) == [0, 1, 3, 2]
    with pytest.raises(ConfigError, match="all of the 10 steps are dense"):
        _sparse_steps(fourth, 4, 1.0)


def test_each_layer_has_the_density_that_it_was_given() -> None:
    drawing = torch.Generator().manual_seed(0)
    layout = TokenLayout((2, 8, 8))
    sums = torch.rand(2, 3, 6, 2, 8, 8, generator=drawing)
    record = AttentionRecord(
        layout=layout, layers=("a", "b", "c"), block=16, sums=sums / sums.sum((-1, -2), keepdim=True)
    )
    densities = np.array([[0.25, 0.5, 1.0], [0.5, 0.25, 0.75]])
    assert with_budget(record, densities).densities().numpy() == pytest.approx(densities, abs=0.04)


def test_what_a_layer_can_spare_is_measured() -> None:
    pipe = sparse_wan()
    plain = draw(pipe)
    record = record_attention(pipe, lambda: draw(pipe), block=BLOCK, parts=2)
    shares = []
    found = measure_sensitivity(pipe, lambda: draw(pipe), record, ladder=(0.1, 0.5, 1.0), on_progress=shares.append)
    assert found.errors.shape == (2, 2, 3) and (found.errors[..., 2] == 0).all() and shares[-1] == 1.0
    assert (found.errors[..., 0] > found.errors[..., 1]).all() and (found.errors[..., 1] > 0).all()
    assert torch.equal(draw(pipe), plain), "it is left as it was"
    with pytest.raises(ConfigError, match="must be densities up to 1"):
        measure_sensitivity(pipe, lambda: draw(pipe), record, ladder=(0.1,))


def test_the_published_score_is_an_option() -> None:
    layout = TokenLayout((4, 8, 8))
    places = torch.cartesian_prod(*(torch.arange(size) for size in layout.size))
    codes = torch.stack([torch.nn.functional.one_hot(places[:, axis], 16).float() * 6 for axis in range(3)], 1)[None]
    scores = order_scores(codes, codes, layout.permutations, block=16, sigma=0.99)
    chosen = published_orders([scores], alpha=0.0)[0]
    assert [ORDER_NAMES[order][0] for order in chosen] == ["F", "H", "W"], "by what low bits need"
    signs = [published_orders([scores], alpha=1.0, more_is_better=better)[0] for better in (False, True)]
    assert not torch.equal(*signs), "its sign decides"
    assert [ORDER_NAMES[order][0] for order in signs[1]] == ["F", "H", "W"]


@pytest.mark.slow
def test_from_prompts_to_a_joined_plan(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(attention_search, "available_perceptual", tuple)
    pipe = load_embedded("emoji-pixart")
    pipe.set_progress_bar_config(disable=True)
    given = {
        "model": "emoji-pixart",
        "settings": GenerationSettings(num_inference_steps=4),
        "num_prompts": 2,
        "densities": (0.5,),
        "block": 16,
        "parts": 2,
        "ladder": (0.25, 1.0),
    }
    found = calibrate_attention(pipe, tmp_path, **given, masses=(0.9,))
    assert [point.target for point in found.points] == [0.5, 0.9]
    assert found.points[0].density == pytest.approx(np.mean(found.budgets[0]), abs=0.05)
    assert found.points[0].density <= 0.56 and np.shape(found.budgets[0]) == (2, 8)
    assert found.points[0].not_computed_frac == pytest.approx(1 - found.points[0].density, abs=1e-3)
    assert all(np.isfinite(point.psnr_db) and point.psnr_db >= point.worst_db > 5 for point in found.points)
    plan = AccelerationPlan.from_pretrained(tmp_path / "attention-density-0.5")
    assert plan.passes == found.plans[0].passes and plan.conditions.num_steps == 4 and not plan.is_certified

    def never(*args, **kwargs):
        raise AssertionError("what is on disk is not measured again")

    for name in ("record", "record_attention", "measure_gains", "measure_sensitivity"):
        monkeypatch.setattr(attention_search, name, never)
    later = calibrate_attention(pipe, tmp_path, **given, dense_steps_frac=0.5)
    assert later.points[0].density == pytest.approx(np.mean(later.budgets[0][1]), abs=0.05)
    assert later.points[0].not_computed_frac == pytest.approx((1 - later.points[0].density) / 2, abs=1e-3)
    calls = AccelerationPlan(name="three-of-four", passes=(TrajectoryConfig(computed=(True, True, False, True)),))
    joined = calibrate_attention(pipe, tmp_path, **given, joined=calls)
    (both,) = joined.plans
    assert [config.type_name for config in both.passes] == ["trajectory", "paro_attention"]
    assert both.passes[1] == plan.passes[0] and joined.points[0].psnr_db < found.points[0].psnr_db
    accelerate_pipeline(pipe, AccelerationPlan.from_pretrained(tmp_path / both.name))
    pipe("an owl", num_inference_steps=4, output_type="latent")
    effects = summary(pipe).denoisers[0].effects
    assert effects["paro_attention"].actual_frac > 0.3 and effects["trajectory"].actual_frac == 0.25
    remove_acceleration(pipe)
    few = {"num_prompts": 2, "repeats": 1, "rival": False, "allow_small": True}
    certify(pipe, both, tmp_path / "certified", model="emoji-pixart", settings=given["settings"], **few)
    own = Report.load(tmp_path / "certified").variants[1]
    assert {each.name for each in own.effects.passes} == {"trajectory", "paro_attention"}
    with pytest.raises(ConfigError, match="decides on attention scores already"):
        calibrate_attention(
            pipe, tmp_path, **given, joined=AccelerationPlan(name="other", passes=(StaticMaskConfig(),))
        )
    with pytest.raises(ConfigError, match="a density, or a mass"):
        calibrate_attention(pipe, tmp_path, **{**given, "densities": ()})
    with pytest.raises(ConfigError, match="something else"):
        calibrate_attention(pipe, tmp_path, **{**given, "block": 32})
