"""A schedule of sites inside a trajectory's computed calls, against hooks that do the same by hand; forecasts."""

from typing import Any

import pytest
import torch
from snapshot import assert_same, snapshot
from tiny import tiny_call, tiny_pipeline

from dit_accel import (
    AccelerationPlan,
    GeneratorSpec,
    StaticCacheConfig,
    TrajectoryConfig,
    accelerate_pipeline,
    load_embedded,
    remove_acceleration,
    summary,
)
from dit_accel.calibration.corrections import fit_corrections, record_moments
from dit_accel.errors import ConfigError
from dit_accel.passes.corrections import taylor_corrections
from dit_accel.schedules import Schedule

STEPS = 8
COMPUTED = (True, True, False, True, False, True, True, False)
TRAJECTORY = TrajectoryConfig(computed=COMPUTED)
ABSENT = {2, 4, 7}
ROW = "10010101"  # 2 is absent, so that what is computed at 3 would have been; 6 reuses 5


def run(pipe: Any, name: str, **more: Any) -> torch.Tensor:
    first = pipe(**tiny_call(name, **{"num_inference_steps": STEPS, **more}))[0]
    return first if isinstance(first, torch.Tensor) else torch.stack(list(first))


class ByHand:
    """Answers a module at some of its calls with a combination of what it gave before."""

    def __init__(self, module: torch.nn.Module, answers: dict[int, dict[int, float]]) -> None:
        self.answers, self.seen, self.call = answers, {}, -1
        self.handle = module.register_forward_hook(self.hook)

    def hook(self, module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        self.call += 1
        weights = self.answers.get(self.call)
        if weights is None:
            self.seen[self.call] = output
            return output
        return sum(self.seen[call] * weight for call, weight in weights.items())


def test_a_site_is_reused_from_the_last_computed_evaluation() -> None:
    """Of the computed evaluations 0, 1, 3, 5, 6 the site runs at 0, 3 and 5: calls 0, 2 and 3."""
    pipe = tiny_pipeline("pixart")
    before = snapshot(pipe)
    accelerate_pipeline(pipe, TRAJECTORY)
    by_hand = ByHand(pipe.transformer.transformer_blocks[1].attn2, {1: {0: 1.0}, 4: {3: 1.0}})
    wanted = run(pipe, "pixart")
    by_hand.handle.remove()
    remove_acceleration(pipe)
    accelerate_pipeline(pipe, [StaticCacheConfig(schedule=Schedule(STEPS, {"blocks.1.attn2": ROW})), TRAJECTORY])
    assert torch.equal(run(pipe, "pixart"), wanted)
    effects = summary(pipe).denoisers[0].effects
    assert effects["trajectory"].actual_frac == pytest.approx(3 / 8)
    assert effects["static_cache"].actual_frac > 0
    remove_acceleration(pipe)
    assert_same(before, snapshot(pipe))


def test_what_was_due_at_an_answered_evaluation_is_made_up_at_the_next() -> None:
    pipe = tiny_pipeline("pixart")
    found = []
    for row in ("10100111", "10010111"):  # 2 is answered, 3 is the next
        accelerate_pipeline(pipe, [TRAJECTORY, StaticCacheConfig(schedule=Schedule(STEPS, {"blocks.0.ff": row}))])
        found.append(run(pipe, "pixart"))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["pixart", "flux", "wan22", "sd"])
def test_every_kind_of_denoiser_takes_both(name: str) -> None:
    """T-GATE on those with cross-attention, DeepCache on UNets, one step in two elsewhere."""
    pipe = tiny_pipeline(name)
    rules = {"pixart": GeneratorSpec("t_gate", gate=3, warmup=0), "sd": GeneratorSpec("deepcache", n=3)}
    cache = StaticCacheConfig(schedule=rules.get(name, GeneratorSpec("every_n", n=3)))
    accelerate_pipeline(pipe, TRAJECTORY)
    alone = run(pipe, name)
    accelerate_pipeline(pipe, [TRAJECTORY, cache])
    both = run(pipe, name)
    assert torch.isfinite(both).all() and not torch.equal(both, alone)
    effects = summary(pipe).denoisers[0].effects
    assert effects["trajectory"].actual_frac > 0 and effects["static_cache"].actual_frac > 0
    assert torch.equal(run(pipe, name), both)


def test_deepcache_inside_a_trajectory_on_a_trained_unet() -> None:
    """On cached evaluations only the outermost path runs: the mid block is called at 0 and 4 of 0, 2, 3, 4, 5."""
    pipe = load_embedded("emoji-sd")
    pipe.set_progress_bar_config(disable=True)
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    pipe.unet.mid_block.resnets[0].register_forward_hook(count)
    trajectory = TrajectoryConfig(computed=(True, False, True, True, True, True))
    accelerate_pipeline(pipe, [trajectory, StaticCacheConfig(schedule=GeneratorSpec("deepcache", n=4))])
    generator = torch.Generator().manual_seed(0)
    pipe("a red apple", num_inference_steps=6, generator=generator, output_type="latent")
    assert calls[0] == 2


def test_a_forecast_is_the_sum_it_says() -> None:
    pipe = tiny_pipeline("pixart")
    block = pipe.transformer.transformer_blocks[0]
    # Computed at evaluations 0, 3, 5 (calls 0, 2, 3), forecast at 1 (from one value) and 6 (from two).
    schedule = Schedule(STEPS, {"blocks.0.ff": ROW})
    taylor = taylor_corrections(schedule, ("blocks.0.ff",), absent=ABSENT)
    accelerate_pipeline(pipe, TRAJECTORY)
    by_hand = ByHand(block.ff, {1: {0: 1.0}, 4: {3: 1.5, 2: -0.5}})
    wanted = run(pipe, "pixart")
    by_hand.handle.remove()
    accelerate_pipeline(pipe, [TRAJECTORY, StaticCacheConfig(schedule=schedule, corrections=taylor)])
    torch.testing.assert_close(run(pipe, "pixart"), wanted, rtol=1e-5, atol=1e-5)


def test_a_forecast_of_other_evaluations_than_are_kept_is_not_used() -> None:
    pipe = tiny_pipeline("pixart")
    schedule = Schedule(STEPS, {"blocks.0.ff": ROW})
    taylor = taylor_corrections(schedule, ("blocks.0.ff",), absent=ABSENT)
    accelerate_pipeline(pipe, [TRAJECTORY, StaticCacheConfig(schedule=schedule)])
    as_it_is = run(pipe, "pixart")
    others = {name: table.clone() for name, table in taylor.items()}
    others["blocks.0.ff.nodes"][others["blocks.0.ff.nodes"] >= 0] = 7
    accelerate_pipeline(pipe, [TRAJECTORY, StaticCacheConfig(schedule=schedule, corrections=others)])
    torch.testing.assert_close(run(pipe, "pixart"), as_it_is, rtol=1e-5, atol=1e-5)


def test_forecasts_are_saved_and_read(tmp_path: Any) -> None:
    schedule = Schedule(STEPS, {"blocks.0.ff": ROW})
    cache = StaticCacheConfig(schedule=schedule, corrections=taylor_corrections(schedule, ("blocks.0.ff",), order=2))
    plan = AccelerationPlan(passes=(cache, TRAJECTORY))
    plan.save_pretrained(tmp_path)
    again = AccelerationPlan.from_pretrained(tmp_path)
    assert again.passes == plan.passes and again.content_sha256() == plan.content_sha256()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": None}, "needs 'a.nodes'"),
        ({"nodes": torch.zeros(STEPS, 2)}, "needs 'a.nodes'"),
        ({"scale": torch.ones(STEPS, 4, 3), "nodes": torch.zeros(STEPS, 4).long()}, "reads 4 kept values"),
        ({"scale": torch.ones(STEPS, 3)}, "whose scale has three axes"),
        ({"shift": torch.ones(STEPS, 5)}, "3 channels .scale. and 5 .shift."),
        ({"scale": None, "shift": None}, "has no partner"),
    ],
)
def test_tables_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    parts = {"scale": torch.ones(STEPS, 2, 3), "shift": torch.zeros(STEPS, 3), "nodes": torch.zeros(STEPS, 2).long()}
    corrections = {f"a.{part}": table for part, table in {**parts, **change}.items() if table is not None}
    with pytest.raises(ConfigError, match=words):
        StaticCacheConfig(schedule=Schedule(STEPS, {"a": ROW}), corrections=corrections)


def test_a_fitted_forecast_is_least_squares_and_never_worse_than_the_affine_map() -> None:
    """Against torch's own solver, on outputs of a run in full that an independent hook recorded."""
    pipe = tiny_pipeline("pixart")
    seen: list[torch.Tensor] = []
    handle = pipe.transformer.transformer_blocks[1].ff.register_forward_hook(
        lambda m, a, out: seen.append(out.clone())
    )
    run(pipe, "pixart")
    handle.remove()
    schedule = Schedule(STEPS, {"blocks.1.ff": ROW})
    found = fit_corrections(pipe, lambda: run(pipe, "pixart"), schedule, depth=2, absent=ABSENT)
    scale, shift, nodes = (found[f"blocks.1.ff.{part}"] for part in ("scale", "shift", "nodes"))
    assert nodes.tolist()[6] == [5, 3] and nodes.tolist()[1] == [0, -1] and nodes.tolist()[3] == [-1, -1]
    one = fit_corrections(pipe, lambda: run(pipe, "pixart"), schedule, absent=ABSENT)
    wide = [out.flatten(0, 1).double() for out in seen]
    for channel in range(0, wide[0].shape[1], 5):
        columns = torch.stack([wide[5][:, channel], wide[3][:, channel], torch.ones(len(wide[0])).double()], 1)
        wanted = torch.linalg.lstsq(columns, wide[6][:, channel, None]).solution[:, 0]
        mine = torch.tensor([*scale[6, :, channel], shift[6, channel]], dtype=torch.float64)
        residual = (columns @ mine - wide[6][:, channel]).norm()
        assert residual <= (columns @ wanted - wide[6][:, channel]).norm() * 1.001 + 1e-6
        affine = one["blocks.1.ff.scale"][6, channel] * columns[:, 0] + one["blocks.1.ff.shift"][6, channel]
        assert residual <= (affine - wide[6][:, channel]).norm() * 1.001 + 1e-6


def test_moments_of_one_run_serve_every_schedule_and_strength() -> None:
    pipe = tiny_pipeline("pixart")
    sites = ("blocks.0.ff", "blocks.1.attn1")
    moments = record_moments(pipe, lambda: run(pipe, "pixart"), sites, num_steps=STEPS)
    for row in (ROW, "10000000"):
        schedule = Schedule(STEPS, dict.fromkeys(sites, row))
        direct = fit_corrections(pipe, lambda: run(pipe, "pixart"), schedule, depth=2)
        solved = moments.corrections(schedule, depth=2)
        assert direct.keys() == solved.keys()
        assert all(torch.allclose(direct[name], solved[name], rtol=1e-4, atol=1e-5) for name in direct)
    half, none = (moments.corrections(schedule, strength=strength) for strength in (0.5, 0.0))
    whole = moments.corrections(schedule)
    assert torch.equal(none["blocks.0.ff.scale"], torch.ones_like(none["blocks.0.ff.scale"]))
    assert torch.allclose(half["blocks.0.ff.shift"], whole["blocks.0.ff.shift"] / 2)
    with pytest.raises(ConfigError, match="from 1 to 3 kept values"):
        moments.corrections(schedule, depth=4)
    with pytest.raises(ConfigError, match="8 steps were recorded"):
        moments.corrections(Schedule(6, {"blocks.0.ff": "101010"}))
