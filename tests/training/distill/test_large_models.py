"""What makes room for large teachers: blocks that are computed again, and frozen weights in half precision."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_flux import PROMPTS, tiny_flux
from tiny_wan import PROMPTS as VIDEO_PROMPTS
from tiny_wan import tiny_wan
from torch import nn

from dit_accel.errors import ConfigError, UnsupportedModelError
from dit_accel.training.distill.export import export_student
from dit_accel.training.distill.export_linear import export_linear
from dit_accel.training.distill.roles import AdapterConfig
from dit_accel.training.distill.run import DistillJob, build_trainer
from dit_accel.training.distill.trainer import DistillTrainer
from dit_accel.training.loop import LoopConfig

OPTIONS: dict[str, dict[str, Any]] = {
    "perflow": {"windows": 2},
    "lcm": {"skip": 2},
    "dmd2": {"critic_updates": 1},
    "ladd": {"blocks": (0, 1)},
    "sana-sprint": {"ladd": {"blocks": (0, 1)}},
    "linvideo": {"linear": 1, "decide_frac": 0.5},
    "sla": {"density": 0.3, "block": 16},
}
VIDEO = ("linvideo", "sla")


def pipeline(method: str) -> Any:
    return tiny_wan() if method in VIDEO else tiny_flux()


def made(method: str, run_dir: Path, pipe: Any = None, **more: Any) -> DistillTrainer:
    video = method in VIDEO
    job = DistillJob(
        method=method, steps=(2,), run_dir=run_dir, trajectories_dir=run_dir.parent / f"t{video}", trajectories=4,
        loop=LoopConfig(
            steps=3, batch_size=2, lr=1e-2, warmup_steps=1, ema_decay=0.5, save_minutes=1e9, sample_minutes=0,
            log_steps=1,
        ),
        teacher_steps=4, adapter=AdapterConfig(rank=2), options=OPTIONS.get(method, {}), frames=2 if video else None,
    )  # fmt: skip
    job = dataclasses.replace(job, **more)
    trainer = build_trainer(pipe or pipeline(method), VIDEO_PROMPTS if video else PROMPTS, job)
    trainer.sample_fn = None
    return trainer


def learned(trainer: DistillTrainer) -> list[torch.Tensor]:
    roles = [p for role in trainer.roles.trained for p in trainer.roles.parameters(role).values()]
    modules = [p for _, module in trainer.objective.modules.values() for p in module.parameters()]
    return [p.detach().clone() for p in (*roles, *modules)]


def count_calls(network: nn.Module) -> list[int]:
    """How often its first block is computed."""
    stack = getattr(network, "transformer_blocks", None) or network.blocks
    calls: list[int] = []
    stack[0].register_forward_pre_hook(lambda module, inputs: calls.append(1))
    return calls


@pytest.mark.parametrize("method", ["perflow", "dmd2", "ladd", "sana-sprint", "linvideo", "sla"])
def test_the_student_is_the_same_and_blocks_are_computed_again(method: str, tmp_path: Path) -> None:
    plain = made(method, tmp_path / "plain")
    calls = count_calls(plain.roles.denoiser)
    plain.run()
    kept = made(method, tmp_path / "kept", checkpointing=True)
    again = count_calls(kept.roles.denoiser)
    kept.run()
    assert len(again) > len(calls)
    for a, b in zip(learned(plain), learned(kept), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_full_copies_are_checkpointed_too(tmp_path: Path) -> None:
    full = AdapterConfig(rank=0)
    plain = made("dmd2", tmp_path / "plain", adapter=full)
    plain.run()
    kept = made("dmd2", tmp_path / "kept", adapter=full, checkpointing=True)
    calls = [count_calls(network) for network in kept.roles.networks()[1:]]
    kept.run()
    # The student: 3 steps of one forward pass with a gradient and, in DMD2's simulated runs, of some without.
    assert all(calls) and len(calls) == 2
    for a, b in zip(learned(plain), learned(kept), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_what_cannot_be_checkpointed_says_so(tmp_path: Path) -> None:
    pipe = tiny_flux()
    pipe.transformer._supports_gradient_checkpointing = False
    with pytest.raises(UnsupportedModelError, match="FluxTransformer2DModel cannot be checkpointed"):
        made("perflow", tmp_path / "run", pipe, checkpointing=True)


@pytest.mark.parametrize("method", ["perflow", "dmd2", "ladd", "linvideo", "sla"])
def test_a_teacher_in_half_precision_has_a_student_in_full(method: str, tmp_path: Path) -> None:
    pipe = pipeline(method).to(torch.bfloat16)
    before = {name: weight.clone() for name, weight in pipe.transformer.state_dict().items()}
    trainer = made(method, tmp_path / "run", pipe, dtype=torch.bfloat16, checkpointing=True)
    assert trainer.identity["base"] == "bfloat16"
    start = learned(trainer)
    trainer.run()
    assert {weight.dtype for weight in learned(trainer)} == {torch.float32}
    assert any(not torch.equal(a, b) for a, b in zip(start, learned(trainer), strict=True))
    assert all(torch.isfinite(weight).all() for weight in learned(trainer))
    if method in VIDEO:
        export_linear(trainer, tmp_path / "plan", name="test")
    else:
        export_student(trainer, pipe, tmp_path / "student", steps=(2,), more={})
        fresh = tiny_flux()
        fresh.load_lora_weights(tmp_path / "student")
    trainer.roles.remove()
    after = pipe.transformer.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.parametrize(
    ("method", "more", "words"),
    [
        ("scm", {"dtype": torch.bfloat16}, "'scm' differentiates the network in float32"),
        ("mdt", {"dtype": torch.bfloat16}, "'mdt' differentiates"),
        ("perflow", {}, "trained under autocast, and that is off"),
        ("perflow", {"dtype": torch.bfloat16, "adapter": AdapterConfig(rank=0)}, "full copies are trained in float32"),
    ],
)
def test_what_half_precision_cannot_do_is_refused(
    method: str, more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        made(method, tmp_path / "run", tiny_flux().to(torch.bfloat16), **more)
