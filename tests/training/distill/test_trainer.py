"""The trainer: exact resume, turns, rollback, diversity, and what comes out at the end."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tiny_flux import PROMPTS, tiny_flux

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.training.distill.backbone import Backbone
from dit_accel.training.distill.guard import DivergedError, GuardConfig
from dit_accel.training.distill.guidance import Guidance
from dit_accel.training.distill.methods import METHODS
from dit_accel.training.distill.roles import AdapterConfig
from dit_accel.training.distill.run import DistillJob, build_trainer
from dit_accel.training.distill.sampling import sample_latents
from dit_accel.training.distill.trainer import DistillTrainer
from dit_accel.training.distill.trajectories import Trajectories
from dit_accel.training.distill.workers import Workers
from dit_accel.training.loop import LoopConfig

OPTIONS: dict[str, dict[str, Any]] = {
    "perflow": {"windows": 2},
    "lcm": {"skip": 2},
    "dmd2": {"critic_updates": 2},
    "sana-sprint": {"ladd": {"blocks": (0, 1)}},
    "ladd": {"blocks": (1,)},
}


@pytest.fixture(scope="module")
def trajectories_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trajectories")


def job(method: str, run_dir: Path, trajectories_dir: Path, **more: Any) -> DistillJob:
    loop = LoopConfig(
        steps=4, batch_size=2, lr=1e-2, warmup_steps=1, ema_decay=0.5, save_minutes=1e9, sample_minutes=0, log_steps=1
    )
    fields: dict[str, Any] = {
        "method": method, "steps": (2,) if method == "perflow" else (1, 2), "loop": loop, "run_dir": run_dir,
        "trajectories_dir": trajectories_dir, "trajectories": 6, "teacher_steps": 4,
        "adapter": AdapterConfig(rank=2), "options": OPTIONS.get(method, {}),
    }  # fmt: skip
    return DistillJob(**{**fields, **more})


def trainer(method: str, run_dir: Path, trajectories_dir: Path, **more: Any) -> DistillTrainer:
    made = build_trainer(tiny_flux(), PROMPTS, job(method, run_dir, trajectories_dir, **more))
    made.sample_fn = None
    return made


def points(solved: Trajectories) -> torch.Tensor:
    return torch.cat(list(solved.parts)).float()


def weights(made: DistillTrainer) -> list[torch.Tensor]:
    """All that a run leaves: roles, modules and the average."""
    found = [p.detach().clone() for role in made.roles.trained for p in made.roles.parameters(role).values()]
    found += [
        p.detach().clone() for _, module in made.objective.modules.values() for p in module.state_dict().values()
    ]
    with made.averaged():
        found += [p.detach().clone() for p in made.roles.parameters("student").values()]
    return found


@pytest.mark.parametrize("method", list(METHODS))
def test_a_run_that_is_stopped_and_resumed_is_the_run_that_was_not(
    method: str, tmp_path: Path, trajectories_dir: Path
) -> None:
    whole = trainer(method, tmp_path / "whole", trajectories_dir)
    start = weights(whole)
    whole.run()
    assert all(torch.isfinite(w).all() for w in weights(whole))
    assert any(not torch.equal(a, b) for a, b in zip(start, weights(whole), strict=True))

    first = trainer(method, tmp_path / "parts", trajectories_dir)
    first.run(max_minutes=1e-9)  # one step
    assert first.step == 1
    second = trainer(method, tmp_path / "parts", trajectories_dir)
    assert second.load()
    second._train_step()  # a step that is lost: killed before it was saved
    third = trainer(method, tmp_path / "parts", trajectories_dir)
    assert third.load() and third.step == 1
    third.run()
    assert third.finished
    for a, b in zip(weights(whole), weights(third), strict=True):
        assert torch.equal(a, b)


def test_the_log_and_a_sheet_are_written(tmp_path: Path, trajectories_dir: Path) -> None:
    made = build_trainer(tiny_flux(), PROMPTS, job("dmd2", tmp_path, trajectories_dir))
    made.run()
    lines = [json.loads(line) for line in (tmp_path / "dmd2.log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(math.isfinite(line["student"]) and math.isfinite(line["critic"]) for line in lines)
    assert (tmp_path / "dmd2-000004.png").exists()


def test_nan_rolls_back_to_the_last_good_checkpoint(tmp_path: Path, trajectories_dir: Path, caplog: Any) -> None:
    made = trainer("perflow", tmp_path, trajectories_dir)
    made.run(max_minutes=1e-9)
    good = weights(made)
    plain, calls = made.objective.loss, []

    def sometimes_nan(turn: str, step: int, generator: torch.Generator) -> torch.Tensor:
        calls.append(generator.initial_seed())
        loss = plain(turn, step, generator)
        if len(calls) == 2:
            assert made.step == 2 and not torch.equal(weights(made)[1], good[1])
            return loss * math.nan
        return loss

    made.objective.loss = sometimes_nan  # type: ignore[method-assign]
    with caplog.at_level("WARNING"):
        made.run()
    assert "back to step 1" in caplog.text and "nan" in caplog.text
    assert made.finished and all(torch.isfinite(w).all() for w in weights(made))
    assert made.lr_scale == 0.5
    assert calls[0] == calls[1] != calls[2]  # other draws than those that led there


def test_a_run_that_diverges_again_and_again_ends_with_a_name_for_it(tmp_path: Path, trajectories_dir: Path) -> None:
    made = trainer("perflow", tmp_path, trajectories_dir, guard=GuardConfig(rollbacks=2))
    made.objective.loss = lambda turn, step, generator: made._averaged[0].sum() * math.nan  # type: ignore
    with pytest.raises(DivergedError, match=r"perflow: the loss of 'student' is nan .* after 2 rollbacks. Lower --lr"):
        made.run()
    assert trainer("perflow", tmp_path, trajectories_dir).load()  # the last good checkpoint is still good


def test_lost_diversity_is_caught(tmp_path: Path, trajectories_dir: Path) -> None:
    guard = GuardConfig(rollbacks=0, probe_steps=2)
    made = trainer("perflow", tmp_path, trajectories_dir, guard=guard)
    assert made.probe is not None and made.probe() > 0.3
    shares = iter((0.8, 0.19))
    made.probe = lambda: next(shares)
    with pytest.raises(DivergedError, match=r"diversity: 0.19 of the teacher's, 0.80 at the start at step 2"):
        made.run()


def test_too_much_contrast_is_caught(tmp_path: Path, trajectories_dir: Path) -> None:
    """Over-contrasted samples are far from each other: no loss of diversity, and no NaN."""
    made = trainer("perflow", tmp_path, trajectories_dir, guard=GuardConfig(rollbacks=0, probe_steps=2))
    shares = iter((0.8, 1.6))
    made.probe = lambda: next(shares)
    with pytest.raises(DivergedError, match=r"over-contrasted: their diversity is 1.60 of the teacher's, 0.80 at"):
        made.run()
    assert GuardConfig().trouble(1.6, first=1.2) is None  # it began with much, by --init
    with pytest.raises(ConfigError, match="max_diversity_frac must be more than 1"):
        GuardConfig(max_diversity_frac=0.9)


def test_a_student_that_starts_blurred_is_measured_by_its_start(tmp_path: Path, trajectories_dir: Path) -> None:
    guard = GuardConfig(rollbacks=0, probe_steps=1)
    made = trainer("perflow", tmp_path, trajectories_dir, guard=guard)
    made.probe = lambda: 0.1
    made.run()
    assert made.finished and made.first_diversity == 0.1
    again = trainer("perflow", tmp_path, trajectories_dir, guard=guard)
    assert again.load() and again.first_diversity == 0.1


def test_the_probe_sees_a_student_that_always_says_the_same(tmp_path: Path, trajectories_dir: Path) -> None:
    made = trainer("perflow", tmp_path, trajectories_dir)
    setting = made.objective.setting  # type: ignore[attr-defined]
    probe = made.probe
    assert probe is not None
    object.__setattr__(setting, "backbone", dataclasses.replace(setting.backbone))
    original = type(setting.backbone).velocity
    try:
        type(setting.backbone).velocity = lambda self, d, x, t, *more: x - 0.3  # type: ignore[method-assign]
        assert probe() < 0.01
    finally:
        type(setting.backbone).velocity = original  # type: ignore[method-assign]


def test_a_checkpoint_of_other_networks_is_refused(tmp_path: Path, trajectories_dir: Path) -> None:
    trainer("perflow", tmp_path, trajectories_dir).run(max_minutes=1e-9)
    other = trainer("perflow", tmp_path, trajectories_dir, adapter=AdapterConfig(rank=3))
    other.identity["rank"] = 2
    with pytest.raises(DitAccelError, match="is of other networks"):
        other.load()


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Path, trajectories_dir: Path) -> None:
    """Loaded, it would be exported with a card that tells of what it was not trained with."""
    trainer("lcm", tmp_path, trajectories_dir).run(max_minutes=1e-9)
    assert trainer("lcm", tmp_path, trajectories_dir).load()
    for more, name in (
        ({"options": {"skip": 3}}, "set"),
        ({"steps": (1,)}, "steps"),
        ({"guard": GuardConfig(), "adapter": AdapterConfig(rank=3)}, "rank"),
        ({"loop": dataclasses.replace(job("lcm", tmp_path, tmp_path).loop, batch_size=3, lr=1e-4)}, "batch_size, lr"),
    ):
        with pytest.raises(ConfigError, match=f"of another training, which differs in: {name}. Give the same"):
            trainer("lcm", tmp_path, trajectories_dir, **more).load()


class Second(Workers):
    """The second of two processes, alone."""

    rank, count = 1, 2  # type: ignore[assignment]


def test_a_kill_in_the_middle_of_a_save_leaves_the_draws_of_the_checkpoint(
    tmp_path: Path, trajectories_dir: Path
) -> None:
    whole = trainer("lcm", tmp_path / "whole", trajectories_dir)
    whole.run()
    first = trainer("lcm", tmp_path / "parts", trajectories_dir)
    first.run(max_minutes=1e-9)
    second = build_trainer(tiny_flux(), PROMPTS, job("lcm", tmp_path / "parts", trajectories_dir), workers=Second())
    second._saves = first._saves - 1
    second.save()
    drawn = second.generator.get_state()
    for made in (first, second):
        made._train_step()
    with mock.patch("os.replace", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        first.save()
    with mock.patch.object(second.workers, "wait", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        second.save()  # its file was written, and the checkpoint was not
    assert second.load() and second.step == 1
    assert torch.equal(second.generator.get_state(), drawn)
    again = trainer("lcm", tmp_path / "parts", trajectories_dir)
    assert again.load() and again.step == 1
    again.run()
    for a, b in zip(weights(whole), weights(again), strict=True):
        assert torch.equal(a, b)


def test_trajectories_are_solved_once_and_checked(tmp_path: Path) -> None:
    folder = tmp_path / "trajectories"
    made = trainer("perflow", tmp_path / "a", folder)
    first = made.objective.setting.trajectories  # type: ignore[attr-defined]
    stamps = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = trainer("perflow", tmp_path / "b", folder).objective.setting.trajectories  # type: ignore[attr-defined]
    assert torch.equal(points(first), points(again))
    assert stamps == {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    with pytest.raises(ConfigError, match=r"guidance 3\.5, wanted 2\.0"):
        trainer("perflow", tmp_path / "c", folder, guidance=Guidance(2.0))


def test_a_larger_set_begins_with_a_smaller_one(tmp_path: Path) -> None:
    with mock.patch("dit_accel.training.distill.trajectories.BATCH", 4):
        few = trainer("perflow", tmp_path / "a", tmp_path / "t").objective.setting.trajectories  # type: ignore[attr-defined]
        many = trainer("perflow", tmp_path / "b", tmp_path / "t", trajectories=10).objective.setting.trajectories  # type: ignore[attr-defined]
        once = trainer("perflow", tmp_path / "c", tmp_path / "u", trajectories=10).objective.setting.trajectories  # type: ignore[attr-defined]
    assert len(few) == 6 and len(many) == len(many.rows) == 10
    torch.testing.assert_close(points(many), points(once))
    torch.testing.assert_close(points(few), points(many)[:6])
    assert torch.equal(many.at(torch.tensor([9, 3, 4]), torch.tensor([0, 4, 2])), points(many)[[9, 3, 4], [0, 4, 2]])
    assert torch.equal(many.at(torch.tensor([9, 3]), -1), points(many)[[9, 3], -1])
    maps = Path("/proc/self/maps")
    if maps.exists():  # mapped and not read
        assert all(str(file) in maps.read_text() for file in (tmp_path / "u").glob("0*.safetensors"))


def test_prompts_are_encoded_a_batch_at_a_time(tmp_path: Path) -> None:
    whole = trainer("perflow", tmp_path / "a", tmp_path / "t").objective.setting.trajectories  # type: ignore[attr-defined]
    with (
        mock.patch("dit_accel.training.distill.trajectories.BATCH", 2),
        mock.patch.object(Backbone, "encode", autospec=True, side_effect=Backbone.encode) as encode,
    ):
        parts = trainer("perflow", tmp_path / "b", tmp_path / "u").objective.setting.trajectories  # type: ignore[attr-defined]
    assert [call.args[1] for call in encode.call_args_list] == [list(PROMPTS[:2]), [PROMPTS[2], ""]]
    for name, rows in whole.text.items():
        torch.testing.assert_close(parts.text[name], rows)
        torch.testing.assert_close(parts.empty[name], whole.empty[name])


def test_trajectories_are_the_pipelines_own_run(tmp_path: Path) -> None:
    """What the stock pipeline draws from a trajectory's noise is the trajectory's end."""
    pipe = tiny_flux()
    made = build_trainer(pipe, PROMPTS, job("perflow", tmp_path, tmp_path / "t"))
    solved = made.objective.setting.trajectories  # type: ignore[attr-defined]
    made.roles.remove()
    shape = solved.parts[0].shape[2:]
    latents = pipe._pack_latents(solved.at(torch.tensor([0]), 0), 1, *shape)
    row = int(solved.rows[0])
    drawn = pipe(
        PROMPTS[row], latents=latents, num_inference_steps=4, guidance_scale=3.5, height=64, width=64,
        max_sequence_length=16, output_type="latent",
    ).images  # fmt: skip
    wanted = pipe._pack_latents(solved.at(torch.tensor([0]), -1), 1, *shape)
    torch.testing.assert_close(drawn, wanted, atol=3e-2, rtol=1e-2)


@pytest.mark.parametrize("renoise", [False, True])
def test_sampling_is_the_schedulers(tmp_path: Path, trajectories_dir: Path, renoise: bool) -> None:
    """The trainer's sampler is FlowMatchEulerDiscreteScheduler, with ``stochastic_sampling`` where it renoises."""
    pipe = tiny_flux()
    made = build_trainer(pipe, PROMPTS, job("perflow", tmp_path, trajectories_dir))
    setting = made.objective.setting  # type: ignore[attr-defined]
    noise = torch.randn(1, *setting.backbone.latent_shape)
    text = {name: rows[:1] for name, rows in setting.trajectories.text.items()}
    with torch.no_grad():
        mine = sample_latents(
            setting, "teacher", noise, text, 2, renoise=renoise, generator=torch.Generator().manual_seed(5)
        )
    made.roles.remove()
    pipe.scheduler.register_to_config(stochastic_sampling=renoise)
    shape = noise.shape
    fresh = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    with mock.patch(
        "diffusers.schedulers.scheduling_flow_match_euler_discrete.randn_tensor",
        lambda *args, **kwargs: pipe._pack_latents(fresh, *shape),
    ):
        theirs = pipe(
            PROMPTS[0], latents=pipe._pack_latents(noise, *shape), num_inference_steps=2, guidance_scale=3.5,
            height=64, width=64, max_sequence_length=16, output_type="latent",
        ).images  # fmt: skip
    torch.testing.assert_close(pipe._pack_latents(mine, *shape), theirs, atol=1e-4, rtol=1e-4)
