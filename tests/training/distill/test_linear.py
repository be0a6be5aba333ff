"""LinVideo and the fine-tuning of SLA on a tiny Wan: gradients, resume, and the plan that comes out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_wan import PROMPTS, tiny_wan

from dit_accel import AccelerationPlan, accelerate_pipeline, remove_acceleration
from dit_accel.errors import ConfigError
from dit_accel.training.distill.backbone import per_sample
from dit_accel.training.distill.export_linear import export_linear
from dit_accel.training.distill.guidance import Guidance
from dit_accel.training.distill.roles import AdapterConfig
from dit_accel.training.distill.run import DistillJob, build_trainer
from dit_accel.training.distill.trainer import DistillTrainer
from dit_accel.training.loop import LoopConfig

OPTIONS = {
    "linvideo": {"linear": 1, "decide_frac": 0.5},
    "sla": {"density": 0.3, "block": 16},
}


def made(method: str, run_dir: Path, pipe: Any = None, **more: Any) -> DistillTrainer:
    loop = LoopConfig(
        steps=4, batch_size=2, lr=1e-2, warmup_steps=1, ema_decay=0.5, save_minutes=1e9, sample_minutes=0, log_steps=1
    )
    job = DistillJob(
        method=method, steps=(2,), loop=loop, run_dir=run_dir, trajectories_dir=run_dir.parent / "t",
        trajectories=3, teacher_steps=2, guidance=Guidance(3.0), adapter=AdapterConfig(rank=2), frames=2,
        options={**OPTIONS[method], **more},
    )  # fmt: skip
    trainer = build_trainer(pipe or tiny_wan(), PROMPTS, job)
    trainer.sample_fn = None
    return trainer


def weights(trainer: DistillTrainer) -> list[torch.Tensor]:
    found = [p.detach().clone() for p in trainer._averaged]
    with trainer.averaged():
        return found + [p.detach().clone() for p in trainer._averaged]


@pytest.mark.parametrize("method", ["linvideo", "sla"])
def test_a_run_is_resumed_exactly_and_comes_out_as_a_plan(method: str, tmp_path: Path) -> None:
    pipe = tiny_wan()
    whole = made(method, tmp_path / "whole", pipe)
    start = weights(whole)
    whole.run()
    changed = [not torch.equal(a, b) for a, b in zip(start, weights(whole), strict=True)]
    assert sum(changed) > len(changed) / 2
    first = made(method, tmp_path / "parts")
    first.run(max_minutes=1e-9)
    second = made(method, tmp_path / "parts")
    assert second.load()
    second.run()
    for a, b in zip(weights(whole), weights(second), strict=True):
        assert torch.equal(a, b)

    plan = export_linear(whole, tmp_path / "plan", name="test")
    fresh = tiny_wan()
    call = {"num_inference_steps": 2, "num_frames": 2, "output_type": "latent"}

    def draw() -> torch.Tensor:
        found: torch.Tensor = fresh(PROMPTS[0], generator=torch.Generator().manual_seed(0), **call).frames
        return found

    plain = draw()
    accelerate_pipeline(fresh, AccelerationPlan.from_pretrained(tmp_path / "plan"))
    linear = draw()
    assert not torch.equal(linear, plain) and torch.isfinite(linear).all()
    remove_acceleration(fresh)
    assert torch.equal(draw(), plain)
    assert [config.type_name for config in plan.passes] == [
        "distilled",
        "linear_attention" if method == "linvideo" else "sla",
    ]


def test_the_teacher_attends_as_ever_while_the_student_mixes(tmp_path: Path) -> None:
    pipe = tiny_wan()
    x, t = torch.randn(2, 4, 2, 16, 16), torch.tensor([0.3, 0.9])
    trainer = made("linvideo", tmp_path / "run", pipe)
    objective: Any = trainer.objective
    text = {name: rows[:2] for name, rows in objective.setting.trajectories.text.items()}
    plain = tiny_wan()
    wanted = objective.setting.backbone.velocity(plain.transformer, x, t, text, Guidance())
    found = objective.setting.velocity("teacher", x, t, text, guided=False)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert (objective.student(x, t, text) - found).abs().max() > 1e-4


def test_adms_gradient_is_the_formulas(tmp_path: Path) -> None:
    """((1 - t) / t) (u_teacher - u_student) dx_t / elements, with dx_t = (1 - t) dx_0."""
    objective: Any = made("linvideo", tmp_path / "run").objective
    data = torch.randn(2, *objective.setting.backbone.latent_shape, requires_grad=True)
    text = {name: rows[:2] for name, rows in objective.setting.trajectories.text.items()}
    (found,) = torch.autograd.grad(objective.anytime(data, text, torch.Generator().manual_seed(3)), data)
    generator = torch.Generator().manual_seed(3)
    t = 0.05 + 0.95 * torch.rand(2, generator=generator)
    x = torch.lerp(data.detach(), torch.randn(data.shape, generator=generator), per_sample(t, data))
    with torch.no_grad():
        gap = objective.setting.velocity("teacher", x, t, text, guided=False) - objective.student(x, t, text)
    expected = per_sample((1 - t) ** 2 / t, x) * gap / data.numel()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_adm_vanishes_where_the_student_is_the_teacher(tmp_path: Path) -> None:
    objective: Any = made("linvideo", tmp_path / "run", linear=0).objective
    objective.mixed.decide(0)  # all softmax: the student is the teacher
    data = torch.randn(2, *objective.setting.backbone.latent_shape, requires_grad=True)
    text = {name: rows[:2] for name, rows in objective.setting.trajectories.text.items()}
    (found,) = torch.autograd.grad(objective.anytime(data, text, torch.Generator().manual_seed(3)), data)
    assert found.abs().max() < 1e-6


def test_layers_are_fixed_when_it_is_time_and_unfixed_by_a_rollback(tmp_path: Path) -> None:
    objective: Any = made("linvideo", tmp_path / "run").objective
    objective.settle(1)
    assert all(layer.decided is None for layer in objective.mixed.layers.values())
    objective.settle(2)
    assert sum(bool(layer.decided) for layer in objective.mixed.layers.values()) == 1
    objective.settle(1)
    assert all(layer.decided is None for layer in objective.mixed.layers.values())
    with pytest.raises(ConfigError, match="of 2 attention layers 5 cannot be linear"):
        made("linvideo", tmp_path / "other", linear=5)


def test_the_layers_are_chosen_once_and_exported_as_they_were_chosen(tmp_path: Path) -> None:
    """Neither shares that move on nor averaged ones change the choice, in the training, a resumed one or the plan."""
    trainer = made("linvideo", tmp_path / "run")
    mixed = trainer.objective.mixed  # type: ignore[attr-defined]
    first, last = mixed.layers.values()
    with torch.no_grad():
        first.share.fill_(0.1)
    trainer.objective.settle(2)  # type: ignore[attr-defined]
    assert (first.decided, last.decided) == (True, False)
    with torch.no_grad():
        first.share.fill_(0.99)
    trainer.objective.settle(3)  # type: ignore[attr-defined]
    trainer.step = 3
    trainer.save()
    again = made("linvideo", tmp_path / "run")
    assert again.load()
    for each in (trainer, again):
        layers = each.objective.mixed.layers.values()  # type: ignore[attr-defined]
        assert [layer.decided for layer in layers] == [True, False]
        plan = export_linear(each, tmp_path / "plan", name="test")
        assert plan.passes[1].layers == (next(iter(mixed.layers)),)  # type: ignore[attr-defined]


def test_slas_fine_tuning_is_flow_matching_and_at_full_density_the_teachers_own(tmp_path: Path) -> None:
    """|v - (eps - x_0)|^2 at the drawn times; where every block is computed the untrained student is the teacher."""
    objective: Any = made("sla", tmp_path / "run", density=1.0, caption_drop=0.0).objective
    setting = objective.setting
    found = objective.loss("student", 0, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    data, text = setting.draw_data(generator)
    torch.rand(2, generator=generator)
    t = setting.backbone.schedule.times(torch.rand(2, generator=generator).clamp(1e-3, 1 - 1e-3)) / 1000
    noise = setting.noise(2, generator)
    x = torch.lerp(data, noise, per_sample(t, data))
    teachers = setting.velocity("teacher", x, t, text, guided=False)
    torch.testing.assert_close(found, (teachers - (noise - data)).square().mean(), atol=1e-5, rtol=1e-4)
    sparse: Any = made("sla", tmp_path / "sparse", density=0.3, caption_drop=0.0).objective
    other = sparse.loss("student", 0, torch.Generator().manual_seed(5))
    assert abs(float(other - found)) > 1e-6, "blocks are left out"
    layers = [p for layer in sparse.training.layers.values() for p in layer.parameters()]
    gradients = torch.autograd.grad(other, layers, allow_unused=True)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients), "the linear branch learns"
