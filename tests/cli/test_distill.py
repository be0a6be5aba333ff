"""``dit-accel distill``, as a user runs it, from the command to a picture."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "training" / "distill")]

QUICK = (
    "--iterations", "2", "--batch-size", "2", "--rank", "2", "--trajectories", "4", "--teacher-steps", "4",
    "--height", "64", "--width", "64",
)  # fmt: skip


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    from tiny_flux import tiny_flux

    tiny_flux().save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def test_a_student_is_written_that_diffusers_and_a_plan_load(run: Any, teacher: str, tmp_path: Path) -> None:
    import diffusers

    from dit_accel import AccelerationPlan, DistilledConfig, accelerate_pipeline, remove_acceleration

    (tmp_path / "prompts.txt").write_text("a red apple\n\nan owl\n")
    arguments = (
        "distill", teacher, "--method", "lcm", "--steps", "1,2", *QUICK, "--prompts", str(tmp_path / "prompts.txt"),
        "--run-dir", str(tmp_path / "run"), "--set", "skip=2", "--device", "cpu", "--dtype", "fp32",
    )  # fmt: skip
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    student = tmp_path / "run" / "student"
    assert str(student) in result.stdout
    card = (student / "README.md").read_text()
    assert "in 1 or 2 steps: a student by lcm" in card and "A LoRA of rank 2" in card and "at guidance 3.5" in card
    assert json.loads((student / "student.json").read_text())["sigmas"]["2"] == pytest.approx([1.0, 0.6148], abs=1e-3)
    assert "The times (sigmas) of its steps: in 1: 1; in 2: 1, 0.61" in card
    assert "2 training steps of 2 samples" in card and "; 4 runs of the teacher; seed 0." in card

    pipe = diffusers.FluxPipeline.from_pretrained(teacher)
    pipe.set_progress_bar_config(disable=True)
    call = {"prompt": "an owl", "height": 64, "width": 64, "output_type": "latent", "max_sequence_length": 16}

    def draw() -> torch.Tensor:
        return pipe(num_inference_steps=1, generator=torch.Generator().manual_seed(0), **call).images

    plain = draw()
    config = DistilledConfig.from_student(student)
    assert config.steps == (1, 2) and config.method == "lcm" and config.scheduler["stochastic_sampling"]
    AccelerationPlan(passes=(config,)).save_pretrained(tmp_path / "plan")
    accelerate_pipeline(pipe, AccelerationPlan.from_pretrained(tmp_path / "plan"))
    folded = draw()
    remove_acceleration(pipe)
    assert torch.equal(draw(), plain) and not torch.equal(folded, plain)
    pipe.load_lora_weights(student)
    torch.testing.assert_close(draw(), folded, atol=1e-4, rtol=1e-3)

    other = run(*arguments, "--batch-size", "1", "--lr", "1e-5")
    assert other.exit_code == 2 and "which differs in: batch_size, lr." in " ".join(other.output.split())
    again = run(*arguments)  # everything is done: it says so by writing the same student
    assert again.exit_code == 0 and "at step 2 of 2" in again.output.replace("\n", " ")


def test_a_large_teacher_has_room(run: Any, teacher: str, tmp_path: Path) -> None:
    arguments = ("distill", teacher, "--steps", "2", *QUICK, "--prompts", "search", "--device", "cpu")
    result = run(*arguments, "--run-dir", str(tmp_path / "run"), "--base", "bf16", "--checkpointing")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "student" / "student.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "perflo"), "Did you mean 'perflow'?"),
        (("--method", "sla"), "dit-accel linearize --method sla"),
        (("--steps", "1,2,4"), "takes as many steps as it has windows"),
        (("--steps", "4", "--set", "windows=2"), "Got --steps 4 and windows=2"),
        (("--steps", "3"), "3 windows do not divide the teacher's 4 steps: give --teacher-steps 6"),
        (("--steps", "0"), "--steps must be whole numbers"),
        (("--steps", "one"), "--steps must be whole numbers"),
        (("--prompts", "nowhere.txt"), "no prompts 'nowhere.txt'"),
        (("--prompts", "certify"), "kept for measuring"),
        (("--prompts", "train"), "is no embedded pipeline"),
        (("--set", "windows"), "--set takes KEY=VALUE"),
        (("--base", "fp16"), "--base must be fp32 or bf16"),
        (("--base", "bf16", "--dtype", "fp32"), "--base bf16 needs autocast"),
        (
            ("--base", "bf16", "--method", "scm", "--steps", "2", "--prompts", "search"),
            "in float32; the teacher is in",
        ),
    ],
)
def test_bad_input_is_named(run: Any, teacher: str, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run("distill", teacher, *QUICK, "--run-dir", str(tmp_path / "run"), "--device", "cpu", *arguments)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split())


def test_a_setting_that_the_method_has_not_is_named(run: Any, teacher: str, tmp_path: Path) -> None:
    arguments = ("distill", teacher, *QUICK, "--run-dir", str(tmp_path), "--device", "cpu", "--prompts", "search")
    result = run(*arguments, "--set", "window=2", "--trajectories", "1", "--steps", "2")
    assert result.exit_code == 2 and "'perflow' does not know that setting" in " ".join(result.output.split())
