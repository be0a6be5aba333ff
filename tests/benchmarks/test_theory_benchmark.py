"""Plans by theory beside even caching: what is compared, and what the page says of it."""

from typing import Any

import pytest
import torch
from pages.theory import theory_block
from theory import EVEN, OUR_ANSWERS, OUR_STEPS, OURS, RULES, config_of, even_steps

from dit_accel.errors import ConfigError
from dit_accel.schedules.theory import typical_steps


def test_even_steps_are_every_nth() -> None:
    assert even_steps(20, 5) == (0, 4, 8, 12, 16) and even_steps(20, 13)[:5] == (0, 1, 3, 4, 6)
    for steps, computed in ((20, 13), (28, 9), (50, 33)):
        chosen = even_steps(steps, computed)
        assert len(set(chosen)) == computed and chosen[0] == 0 and chosen[-1] < steps


def test_the_rules_differ_in_what_they_say() -> None:
    steps, ours, even = 20, typical_steps(20, 7), even_steps(20, 7)
    found = {rule: config_of(rule, steps, 3.0) for rule in RULES}
    assert {rule: config.steps_of(steps) for rule, config in found.items()} == {
        EVEN: even,
        OURS: ours,
        OUR_ANSWERS: even,
        OUR_STEPS: ours,
    }
    assert found[OURS].weights is None and found[OUR_ANSWERS].weights is None
    again = found[EVEN].weights
    assert again is not None and torch.equal(again[3], again[4]) and again[3, 2] == 1  # 2 and 5 are computed
    assert again[[step for step in range(steps) if step not in even]].sum(dim=1).eq(1).all()


def _model(name: str, **means: tuple[float, float]) -> dict[str, Any]:
    cells = [
        {
            "speedup": speed,
            "rule": rule,
            "computed": round(20 / speed),
            "psnr_db": {"mean": mean, "ci95": [mean - 1, mean + 1], "worst5": mean, "per_image": [mean]},
        }
        for rule, pair in means.items()
        for speed, mean in zip((2.0, 4.0), pair, strict=True)
    ]
    return {
        "name": name,
        "scheduler": "DDIMScheduler",
        "prediction_type": "v_prediction",
        "num_inference_steps": 20,
        "n": 4,
        "makes": "images",
        "cells": cells,
    }


def test_the_page_says_where_ours_is_better_and_where_not() -> None:
    report = {
        "format": "dit-accel/theory",
        "created_utc": "2026-01-01T00:00:00+00:00",
        "environment": {"cpu": "a CPU", "packages": {"torch": "2"}},
        "prompts": "certify",
        "models": [
            _model("one", **{EVEN: (40.0, 30.0), OURS: (45.0, 29.0)}),
            _model("two", **{EVEN: (1.0, 2.0), OURS: (3.0, 4.0)}),
        ],
    }
    text = theory_block(report)
    assert "`one`, DDIMScheduler, 20 steps, v_prediction, n = 4 images:" in text
    assert "| | 2x: 10 computed | 4x: 5 computed |" in text
    assert "| even caching | 40.0 [39.0, 41.0] | **30.0** [29.0, 31.0] |" in text
    assert "| ours | **45.0** [44.0, 46.0] | 29.0 [28.0, 30.0] |" in text
    assert "By PSNR ours is better than even caching in 3 of 4 cells; not on `one` at 4x." in text
    assert "ST-LPIPS" not in text, "it was not measured"
    with pytest.raises(ConfigError, match=r"no report of benchmarks/theory\.py"):
        theory_block({"format": "other"})
