"""``generate --parallel``: ranks of one job draw one picture, and speak with one voice."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops
from typer.testing import CliRunner

SHORT = ("--steps", "6", "--device", "cpu", "--preset", "none")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def together(size: int, *arguments: str, dies: int | None = None) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of every rank of a job like torchrun's; one of them may be killed on its way."""
    context = multiprocessing.get_context("fork")
    port, started = free_port(), []
    for rank in range(size):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(rank, size, port, arguments, rank == dies, theirs), daemon=True)
        process.start()
        theirs.close()
        started.append((process, mine))
    told = []
    for process, pipe in started:
        try:
            told.append(pipe.recv() if pipe.poll(600) else (-1, "", "was not done in time"))
        except EOFError:
            told.append((-signal.SIGKILL, "", ""))
        process.kill()
        process.join()
    return told


def _rank(rank: int, size: int, port: int, arguments: tuple[str, ...], dies: bool, pipe: Any) -> None:
    from dit_accel.cli.app import app

    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
    if dies:
        _die_in_the_third_step()
    result = CliRunner().invoke(app, list(arguments))
    pipe.send((result.exit_code, result.stdout, result.stderr))
    os._exit(0)


def _die_in_the_third_step() -> None:
    import diffusers

    step, calls = diffusers.DPMSolverMultistepScheduler.step, []

    def last(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*args, **kwargs)

    diffusers.DPMSolverMultistepScheduler.step = last


def test_two_ranks_draw_what_one_process_draws(run, tiny_folder: str) -> None:
    run("generate", "an owl", "-m", tiny_folder, "-o", "alone", *SHORT)
    run("generate", "an owl", "-m", tiny_folder, "-o", "one", "--parallel", "1", *SHORT)
    ranks = together(2, "generate", "an owl", "-m", tiny_folder, "-o", "shared", "--parallel", "2", *SHORT)
    assert [code for code, _, _ in ranks] == [0, 0], ranks
    assert ranks[0][1].split() == ["shared/an-owl_seed0.png"] and "rank 0 sent" in ranks[0][2]
    assert ranks[1][1] == "" and "plan" not in ranks[1][2], "the others say nothing"
    alone, one, shared = (Image.open(f"{folder}/an-owl_seed0.png") for folder in ("alone", "one", "shared"))
    assert ImageChops.difference(alone, one).getbbox() is None
    assert max(high for _, high in ImageChops.difference(alone, shared).getextrema()) <= 1, "guidance is split exactly"


def test_an_error_is_said_once(tmp_path: Path, tiny_folder: str) -> None:
    few = ("generate", "an owl", "-m", tiny_folder, "--parallel", "4", "--steps", "3", "--preset", "none")
    ranks = together(4, *few, "--device", "cpu")
    assert [code for code, _, _ in ranks] == [2] * 4
    said = [err for _, _, err in ranks if "error:" in err]
    assert len(said) == 1 and "too far apart" in said[0] and "mode='sync'" in said[0]


@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_ends_the_run_with_one_error(run, tiny_folder: str, dies: int) -> None:
    ranks = together(
        3, "generate", "an owl", "-m", tiny_folder, "--parallel", "3", "--parallel-mode", "sync", *SHORT, dies=dies
    )
    assert [code for code, _, _ in ranks] == [2 if rank != dies else -signal.SIGKILL for rank in range(3)], ranks
    said = [err for _, _, err in ranks if "error:" in err]
    # The list of who has spoken is kept by the first rank here, and by torchrun where that has started the job.
    assert len(said) == 1 or dies == 0
    assert all("lost the others" in " ".join(err.split()) for err in said)
    assert not Path("outputs").exists(), "nothing is written of a picture that is not there"


def test_what_does_not_go_together(run, tiny_folder: str) -> None:
    alone = run("generate", "an owl", "--parallel", "2")
    assert alone.exit_code == 2 and "torchrun --nproc-per-node 2 -m dit_accel" in " ".join(alone.stderr.split())
    compared = run("generate", "an owl", "--parallel", "2", "--compare")
    assert compared.exit_code == 2 and "does not go with --parallel" in " ".join(compared.stderr.split())
    typo = run("generate", "an owl", "--parallel", "2", "--parallel-mode", "stail")
    assert typo.exit_code == 2 and "Did you mean 'stale'" in typo.stderr


@pytest.mark.slow
def test_torchrun(tmp_path: Path, tiny_folder: str) -> None:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "-m",
        "dit_accel",
    ]
    command = [*launch, "generate", "an owl", "-m", tiny_folder, "-o", "out", "--parallel", "2", *SHORT]
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["out/an-owl_seed0.png"] and (tmp_path / "out/an-owl_seed0.png").is_file()


def test_parallel_plan(run, tiny_folder: str) -> None:
    result = run("parallel-plan", tiny_folder, "--ranks", "2", "--bandwidth", "10gbe", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    names = [each["name"] for each in data["ways"]]
    assert {"data", "guidance", "patches, sync", "patches, stale", "patches, partial"} <= set(names)
    assert data["ways"] == sorted(data["ways"], key=lambda each: each["picture_s"])
    assert data["link"]["gb_per_s"] == 1.0 and len(data["verdict"]) == 3
    assert data["environment"]["torch_threads"] >= 1
    wrong = run("parallel-plan", tiny_folder, "--bandwidth", "dialup")
    assert wrong.exit_code == 2 and "nvlink (200)" in wrong.stderr
