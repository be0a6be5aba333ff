"""What a trajectory plan says: it comes back from its file, and what does not fit together is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_pipeline
from trajectory_runs import HALF, STEPS, run, table

from dit_accel import AccelerationPlan, TrajectoryConfig, accelerate_pipeline
from dit_accel.errors import ConfigError
from dit_accel.passes.trajectory.config import LATENTS

APART = {"computed": (True, False), "weights": torch.zeros(2, 4), "unconditional": torch.zeros(2, 4)}


def test_a_plan_is_saved_and_read(tmp_path: Path) -> None:
    rows = {step: {step - 1: 0.1 * step, LATENTS: -0.3} for step in range(1, STEPS, 2)}
    config = TrajectoryConfig(
        computed=HALF.computed, weights=table(rows), levels=tuple(range(STEPS)), guard=(1.0,) * 8, guarded=True
    )
    assert "guarded" not in replace(config, guarded=False).to_dict()  # older plans keep their digest
    both = torch.stack([table(rows), 2 * table(rows)])
    ranged = replace(config, guidance=(2, 4), guided_weights=both)
    AccelerationPlan(passes=(ranged,)).save_pretrained(tmp_path / "ranged")
    assert AccelerationPlan.from_pretrained(tmp_path / "ranged").passes == (ranged,) and ranged != config
    AccelerationPlan(passes=(config,)).save_pretrained(tmp_path)
    read = AccelerationPlan.from_pretrained(tmp_path)
    assert isinstance(read.passes[0], TrajectoryConfig)
    assert read.passes[0].to_dict() == config.to_dict() and torch.equal(read.passes[0].weights, config.weights)
    pipe = tiny_pipeline("pixart")
    accelerate_pipeline(pipe, config)
    made = run(pipe, "pixart")
    accelerate_pipeline(pipe, read)
    assert torch.equal(run(pipe, "pixart"), made)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"computed": (False, True)}, "the first one true"),
        ({"computed": ()}, "true or false"),
        ({"computed": (True, False), "weights": torch.zeros(2, 3)}, r"\[2, 4\]"),
        ({"computed": (True, False), "weights": torch.full((2, 4), float("nan"))}, "not finite"),
        ({"computed": (True, False, False), "weights": table({2: {1: 1.0}}, 3)}, "not computed"),
        ({"computed": (True, True), "weights": table({0: {1: 1.0}}, 2)}, "not yet"),
        ({"computed": (True, False), "levels": (1.0,)}, "1 levels for 2"),
        ({"computed": (True, False), "guard": (1.0, 1.0)}, "there are none"),
        ({"computed": (True, False), "guarded": True}, "needs limits in 'guard'"),
        ({"computed": (True, False), "guidance": (1.0, 2.0)}, "take 'weights' and two scales"),
        (
            {"computed": (True,), "weights": torch.zeros(1, 3), "guidance": (2.0, 1.0), "guided_weights": None},
            "take 'weights' and two scales",
        ),
        (
            {
                "computed": (True,),
                "weights": torch.zeros(1, 3),
                "guidance": (2.0, 1.0),
                "guided_weights": torch.zeros(2, 1, 3),
            },
            "must rise",
        ),
        (
            {
                "computed": (True,),
                "weights": torch.zeros(1, 3),
                "guidance": (1.0, 2.0),
                "guided_weights": torch.zeros(1, 3),
            },
            r"\[2, 1, 3\]",
        ),
        (
            {"computed": (True,), "weights": torch.zeros(1, 3), "filters": torch.zeros(1, 2, 3)},
            r"\[1, C, C\], got \[1, 2, 3\]",
        ),
        ({"computed": (True,), "filters": torch.zeros(1, 2, 2)}, "filters take weights"),
        ({"computed": (True,), "unconditional": torch.zeros(1, 3)}, "take those of the conditional branch"),
        ({**APART, "conditional": (False, True)}, "take 'unconditional' and 'cross'"),
        ({**APART, "conditional": (False, False), "cross": torch.zeros(2, 6)}, "take 'unconditional' and 'cross'"),
        ({**APART, "conditional": (True, False), "cross": torch.zeros(2, 6)}, "computed whole or"),
        ({**APART, "conditional": (True,), "cross": torch.zeros(2, 6)}, "1 conditional for 2"),
        ({**APART, "conditional": (False, True), "cross": torch.zeros(2, 4)}, r"\[2, 6\], got \[2, 4\]"),
        ({**APART, "conditional": (False, True), "cross": torch.eye(2, 6)}, "not computed, or not yet"),
        ({"guarded": "yes"}, "true or false, got 'yes'"),
        ({"weights": torch.zeros(2, 4)}, "belong to 'computed'"),
        ({"speedup": 0.5}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrajectoryConfig(**fields)
