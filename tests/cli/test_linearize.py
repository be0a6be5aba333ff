"""``dit-accel linearize``, as a user runs it, from the command to a plan that draws; stopped and gone on with."""

import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from dit_accel import AccelerationPlan, LinearAttentionConfig, SLAConfig, accelerate_pipeline, remove_acceleration

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "training" / "distill")]

QUICK = (
    "--iterations", "4", "--batch-size", "2", "--rank", "2", "--trajectories", "2", "--teacher-steps", "2",
    "--height", "64", "--width", "64", "--frames", "2", "--guidance", "3", "--device", "cpu", "--dtype", "fp32",
)  # fmt: skip


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    from tiny_wan import PROMPTS, tiny_wan

    tiny_wan().save_pretrained(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return str(tmp_path / "teacher")


def weights(plan: Path) -> dict[str, torch.Tensor]:
    found = AccelerationPlan.from_pretrained(plan).passes
    return {f"{config.type_name}.{name}": value for config in found for name, value in config.tensors().items()}


@pytest.mark.parametrize(
    ("method", "kind"),
    [(("--layers", "0.5"), LinearAttentionConfig), (("--method", "sla", "--density", "0.3"), SLAConfig)],
)
def test_a_plan_is_written_that_draws_and_a_run_that_was_stopped_ends_in_the_same(
    run: Any, teacher: str, tmp_path: Path, method: tuple[str, ...], kind: type[Any]
) -> None:
    arguments = ("linearize", teacher, *QUICK, *method, "--prompts", str(tmp_path / "prompts.txt"))
    whole = run(*arguments, "--run-dir", str(tmp_path / "whole"))
    assert whole.exit_code == 0, whole.output
    plan = tmp_path / "whole" / "plan"
    assert str(plan) in whole.stdout
    adapter, attention = AccelerationPlan.from_pretrained(plan).passes
    assert adapter.type_name == "distilled" and isinstance(attention, kind)
    if kind is LinearAttentionConfig:
        assert f"1 of 2 layers: {attention.layers[0]}" in whole.stdout and len(attention.layers) == 1

    parts = (*arguments, "--run-dir", str(tmp_path / "parts"))
    first = run(*parts, "--time-budget", "0")
    assert first.exit_code == 0 and "Stopped at 1 of 4" in " ".join(first.output.split())
    second = run(*parts)
    assert "at step 1 of 4" in " ".join(second.output.split())
    ours, theirs = weights(plan), weights(tmp_path / "parts" / "plan")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    pipe = diffusers.WanPipeline.from_pretrained(teacher)
    pipe.set_progress_bar_config(disable=True)

    def draw() -> torch.Tensor:
        found: torch.Tensor = pipe(
            "a frog grows", num_inference_steps=2, num_frames=2, height=64, width=64, output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).frames  # fmt: skip
        return found

    plain = draw()
    accelerate_pipeline(pipe, AccelerationPlan.from_pretrained(plan))
    changed = draw()
    assert torch.isfinite(changed).all() and not torch.equal(changed, plain)
    remove_acceleration(pipe)
    assert torch.equal(draw(), plain)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "linvide"), "Did you mean 'linvideo'?"),
        (("--method", "lcm"), "--method must be one of linvideo, sla"),
        (("--match", "kl"), "--match must be adm or mse"),
        (("--layers", "1.5"), "less than or equal to 1"),
        (("--method", "sla", "--density", "0"), "density must be"),
        (("--dtype", "fp16"), "--dtype must be auto, bf16 or fp32"),
        (("--prompts", "nowhere.txt"), "no prompts 'nowhere.txt'"),
        (("--prompts", "certify"), "kept for measuring"),
    ],
)
def test_bad_input_is_named(run: Any, teacher: str, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    given = ("linearize", teacher, *QUICK, "--prompts", str(tmp_path / "prompts.txt"), *arguments)
    result = run(*given, "--run-dir", str(tmp_path / "run"))
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split())


def test_what_belongs_to_another_model_or_run_is_refused(run: Any, teacher: str, tmp_path: Path) -> None:
    from tiny_flux import tiny_flux

    tiny_flux().save_pretrained(tmp_path / "flux")
    arguments = ("--prompts", str(tmp_path / "prompts.txt"), "--run-dir", str(tmp_path / "run" / "linvideo"))
    other = ("--prompts", str(tmp_path / "prompts.txt"), "--run-dir", str(tmp_path / "other" / "linvideo"))
    result = run("linearize", str(tmp_path / "flux"), *QUICK, *other)
    assert result.exit_code != 0 and "text is part of its self-attention" in " ".join(result.output.split())
    arguments = ("linearize", teacher, *QUICK, *arguments, "--iterations", "1", "--time-budget", "0")
    assert run(*arguments).exit_code == 0
    result = run("linearize", str(tmp_path / "flux"), *arguments[2:])
    assert result.exit_code != 0 and "holds trajectories with model" in " ".join(result.output.split())
    result = run(*arguments, "--rank", "4")
    assert result.exit_code != 0 and "differs in: rank." in " ".join(result.output.split())
