"""Several processes train one student: equal weights, equal decisions, and the mean of what each has seen."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_flux import PROMPTS, tiny_flux

from dit_accel.passes.patch_parallel.launch import run_on_ranks
from dit_accel.training.distill.roles import AdapterConfig
from dit_accel.training.distill.run import DistillJob, build_trainer
from dit_accel.training.distill.workers import Workers
from dit_accel.training.loop import LoopConfig


def launched(rank: int, size: int) -> Workers:
    """As torchrun sets the environment."""
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(rank)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    return Workers.from_environment()


def trained(rank: int, size: int, *, folder: Path, minutes: list[float | None]) -> dict[str, Any]:
    """On one rank: train, stopped and gone on with as often as there are budgets."""
    workers, steps = launched(rank, size), []
    for budget in minutes:
        loop = LoopConfig(steps=4, batch_size=2, lr=1e-2, warmup_steps=1, ema_decay=0.5, save_minutes=1e-9)
        job = DistillJob(
            method="dmd2", steps=(1, 2), loop=loop, run_dir=folder / "run", trajectories_dir=folder / "trajectories",
            trajectories=70, teacher_steps=2, adapter=AdapterConfig(rank=2), options={"critic_updates": 1},
        )  # fmt: skip
        made = build_trainer(tiny_flux(), PROMPTS, job, workers)
        made.sample_fn = None
        made.load()
        made.run(budget)
        steps.append(made.step)
    weights = [p.detach().numpy() for role in made.roles.trained for p in made.roles.parameters(role).values()]
    seen = made.objective.setting.draw_data(made.generator)[0].numpy()  # type: ignore[attr-defined]
    return {"rank": workers.rank, "count": workers.count, "steps": steps, "weights": weights, "seen": seen}


def averaged(rank: int, size: int) -> tuple[float, list[float], float, float]:
    workers = launched(rank, size)
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (2, 1, 1)]
    parameters[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
    parameters[1].grad = torch.ones(1) if rank else None  # the last has none anywhere
    mean = workers.average(parameters, torch.tensor(float(rank)))
    return (
        mean,
        torch.cat([p.grad for p in parameters if p.grad is not None]).tolist(),
        workers.clock(),
        workers.first(rank),
    )


def test_gradients_and_losses_are_averaged_and_the_clock_is_the_first_ones() -> None:
    first, second = run_on_ranks(averaged, 2, timeout_s=300)
    assert first[:2] == second[:2] == (0.5, [1.5, 3.0, 0.5])  # and three: the last still has none
    assert first[2:] == second[2:] and first[3] == 0


@pytest.mark.slow
def test_ranks_stop_together_go_on_together_and_have_one_student(tmp_path: Path) -> None:
    # Spawned: PyTorch has no gradients in a fork of a process that has made some, as other tests have here.
    arguments: dict[str, Any] = {"folder": tmp_path / "parts", "minutes": [1e-9, None]}
    first, second = run_on_ranks(trained, 2, arguments=arguments, timeout_s=300, method="spawn")
    assert (first["rank"], second["rank"]) == (0, 1) and first["count"] == second["count"] == 2
    assert first["steps"] == second["steps"] == [1, 4]
    same = [(a == b).all() for a, b in zip(first["weights"], second["weights"], strict=True)]
    assert all(same) and any(abs(weights).max() > 0 for weights in first["weights"])
    assert (first["seen"] != second["seen"]).any()  # each has batches of its own
    assert len(list((tmp_path / "parts" / "trajectories").glob("0*.safetensors"))) == 3

    arguments = {"folder": tmp_path / "whole", "minutes": [None]}
    whole = run_on_ranks(trained, 2, arguments=arguments, timeout_s=300, method="spawn")
    for a, b in zip(first["weights"], whole[0]["weights"], strict=True):
        assert (a == b).all()
