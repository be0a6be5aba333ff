"""Fitted weights on a grid of another number of steps: exact where they can be, else better than theory."""

import dataclasses
import warnings
from typing import Any

import pytest
import torch
from trajectory_runs import table

from dit_accel import AccelerationPlan, TrajectoryConfig, accelerated, load_embedded, summary
from dit_accel.errors import AccelerationWarning
from dit_accel.families.targets import find_targets
from dit_accel.passes.trajectory.carry import carried
from dit_accel.passes.trajectory.config import LATENTS, NOISE
from dit_accel.pipelines.generation import GenerationSettings, generate
from dit_accel.session.presets import resolve_preset

STEPS = 9
NODES = (0, 2, 6)
LEVELS = tuple(2.0 ** (4 - step) for step in range(STEPS))  # evenly spaced logarithms
FINER = tuple(2.0 ** (4 - step / 2) for step in range(2 * STEPS - 1))


def line(nodes: tuple[int, ...], step: int) -> dict[int, float]:
    """The line through the last two nodes; of the first one alone its own value."""
    known = [node for node in nodes if node < step]
    if len(known) == 1:
        return {known[0]: 1.0}
    before, last = known[-2:]
    share = (step - last) / (last - before)
    return {last: 1 + share, before: -share}


def on_a_line(**more: Any) -> TrajectoryConfig:
    """A plan that answers exactly what moves evenly with the logarithm of the level."""
    rows = {step: line(NODES, step) for step in range(1, STEPS)}
    return TrajectoryConfig(
        computed=tuple(step in NODES for step in range(STEPS)), levels=LEVELS, weights=table(rows, STEPS), **more
    )


def answers(config: TrajectoryConfig, outputs: torch.Tensor) -> torch.Tensor:
    """What the rows say, from the outputs of the computed evaluations."""
    assert config.weights is not None
    return config.weights[:, :LATENTS] @ outputs


def test_to_its_own_levels_it_is_carried_unchanged() -> None:
    config = on_a_line()
    found = carried(config, LEVELS)
    assert found is not None and found.computed == config.computed
    torch.testing.assert_close(found.weights, config.weights)


def test_on_a_finer_grid_the_same_calls_and_the_lines_between_the_rows() -> None:
    """With as many more calls as there are more steps."""
    found = carried(on_a_line(), FINER)
    assert found is not None and found.computed is not None and found.levels == FINER
    assert sum(found.computed) == round(len(NODES) * len(FINER) / STEPS)
    assert all(found.computed[2 * node] for node in NODES)
    outputs = 3 - 0.25 * torch.arange(len(FINER), dtype=torch.float64)
    late = slice(2 * NODES[1] + 1, None)  # before the second call there is no slope to know
    torch.testing.assert_close(answers(found, outputs)[late], outputs[late])


def test_behind_a_call_that_is_added_its_output_and_what_changes_since() -> None:
    config = on_a_line()
    found = carried(config, FINER)
    assert found is not None and found.computed is not None and found.weights is not None
    calls = [step for step, each in enumerate(found.computed) if each]
    added = next(step for step in calls if step not in {2 * node for node in NODES})
    following = next(step for step in (*calls, len(FINER) - 1) if step > added)
    outputs = 3 - 0.25 * torch.arange(len(FINER), dtype=torch.float64)
    shifted = outputs.clone()
    shifted[added] += 10  # something that nothing before could tell
    change = answers(found, shifted) - answers(found, outputs)
    torch.testing.assert_close(change[added + 1 : following + 1], torch.full((following - added,), 10.0).double())
    assert not change[: added + 1].any()


def test_with_fewer_steps_all_calls_stay_and_weights_of_latents_and_noise_come_along() -> None:
    config = on_a_line()
    assert config.weights is not None
    config.weights[4, LATENTS], config.weights[4, NOISE] = 0.5, -0.25
    fewer = tuple(2.0 ** (4 - step * 8 / 6) for step in range(7))
    found = carried(config, fewer)
    assert found is not None and found.computed is not None and found.weights is not None
    assert [k for k, each in enumerate(found.computed) if each] == [0, 2, 4]
    # Evaluation 3 lies in the middle between 2 and 4, as evaluation 4 does between the plan's 2 and 6.
    torch.testing.assert_close(found.weights[3, LATENTS:], config.weights[4, LATENTS:])
    assert not found.weights[5, LATENTS:].any()


def test_the_weights_of_branches_and_guidance_scales_are_carried_alike() -> None:
    plain = on_a_line()
    assert plain.weights is not None
    more = {"unconditional": 2 * plain.weights, "guidance": (1.0, 2.0)}
    tables = torch.stack([plain.weights, 3 * plain.weights])
    config = dataclasses.replace(plain, guided_weights=tables, guided_unconditional=2 * tables, **more)
    found, alone = carried(config, FINER), carried(plain, FINER)
    assert found is not None and alone is not None
    assert found.guided_weights is not None and found.unconditional is not None
    torch.testing.assert_close(found.weights, alone.weights)
    torch.testing.assert_close(found.guided_weights[0], alone.weights)
    assert not torch.equal(found.unconditional, found.weights) and found.guidance == (1.0, 2.0)


def test_half_calls_become_whole_and_the_guard_keeps_no_watch() -> None:
    plain = on_a_line()
    halves = tuple(step == 4 for step in range(STEPS))
    cross = torch.zeros(STEPS, 2 * STEPS + 2, dtype=torch.float64)
    config = dataclasses.replace(
        plain, conditional=halves, cross=cross, unconditional=plain.weights, guard=(0.1,) * STEPS, guarded=True
    )
    found = carried(config, FINER)
    assert found is not None and found.computed is not None
    assert found.computed[8] and not found.conditional and found.cross is None and not found.guarded


@pytest.mark.parametrize(
    ("change", "levels"),
    [
        ({"weights": None, "levels": ()}, FINER),
        ({"levels": ()}, FINER),
        ({"levels": (*LEVELS[:4], LEVELS[3], *LEVELS[5:])}, FINER),
        ({}, ()),
        ({}, (*FINER[:-1], 0.0)),
        ({}, (*FINER[:-1], FINER[-2])),
        ({}, LEVELS[:4]),
        ({"levels": tuple(level / 16 for level in LEVELS)}, tuple(level / 16 for level in FINER)),
        ({"filters": torch.ones(STEPS, 2, 2)}, FINER),
        ({"computed": tuple(step < 5 for step in range(STEPS))}, tuple(2.0 ** (4 - 2 * step) for step in range(5))),
    ],
    ids=[
        "theory",
        "no levels",
        "second order",
        "unknown",
        "ends at 0",
        "repeats",
        "too few",
        "more of a flow",
        "filters",
        "all computed",
    ],
)
def test_theory_answers_where_they_cannot_be_carried(change: dict[str, Any], levels: tuple[float, ...]) -> None:
    config = on_a_line()
    if "computed" in change:
        config = TrajectoryConfig(computed=change["computed"], weights=torch.zeros(9, 11).double(), levels=LEVELS)
    else:
        config = dataclasses.replace(config, **change)
    assert carried(config, levels) is None


@pytest.mark.parametrize(("model", "steps"), [("emoji-flux", 14), ("emoji-pixart", 26)])
def test_a_shipped_plan_is_worth_more_than_theory_in_other_numbers_of_steps(model: str, steps: int) -> None:
    pipe = load_embedded(model)
    pipe.set_progress_bar_config(disable=True)
    plan = resolve_preset("fast", find_targets(pipe))
    (config,) = plan.passes
    assert isinstance(config, TrajectoryConfig)
    by_theory = AccelerationPlan(passes=(TrajectoryConfig(computed=config.computed),))

    def off(plan: AccelerationPlan | None) -> tuple[torch.Tensor, str]:
        settings = GenerationSettings(num_inference_steps=steps)
        if plan is None:
            return generate(pipe, ["a red apple"], [0], settings), ""
        with accelerated(pipe, plan), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", AccelerationWarning)
            picture = generate(pipe, ["a red apple"], [0], settings)
            effect = summary(pipe).denoisers[0].effects["trajectory"]
        assert effect.actual_frac == pytest.approx(effect.planned_frac) and effect.shortfall is None
        return picture, str([str(each.message) for each in caught])

    plain, _ = off(None)
    kept, said = off(plan)
    theory, _ = off(by_theory)
    assert "the rest answered by its weights, carried to them" in said
    assert (kept - plain).square().mean() < (theory - plain).square().mean() / 2
