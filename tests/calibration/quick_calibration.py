"""A calibration of seconds: a tiny pipeline, two prompts, five steps, no perceptual network. Also run as a process."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_text import tiny_text_pipeline

from dit_accel.calibration import judging, on_ranks
from dit_accel.calibration.calibrate import Calibration, calibrate
from dit_accel.calibration.spread import here
from dit_accel.pipelines.generation import GenerationSettings

SETTINGS = GenerationSettings(num_inference_steps=5)
PROMPTS = ("a red apple", "an owl")


def quick_pipeline() -> Any:
    """The pipeline, without its bar."""
    pipe = tiny_text_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def no_networks() -> tuple[str, ...]:
    """In place of ``available_perceptual``."""
    return ()


def worker_pipeline() -> Any:
    """The pipeline of a worker process, which is to measure what the leader does."""
    judging.available_perceptual = no_networks  # type: ignore[assignment]
    return quick_pipeline()


def doomed_pipeline(marker: Path) -> Any:
    """As :func:`worker_pipeline`; the first process that asks for it is killed over its second candidate."""
    pipe, judged, plain = worker_pipeline(), [], judging.Judge.__call__
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return pipe

    def call(self: judging.Judge, steps: tuple[int, ...]) -> judging.Verdict:
        judged.append(steps)
        if len(judged) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, steps)

    judging.Judge.__call__ = call  # type: ignore[method-assign]
    return pipe


def quick(pipe: Any, folder: Path, **more: Any) -> Calibration:
    """Calibrate."""
    given = {"model": "tiny", "settings": SETTINGS, "prompts": PROMPTS, "generations": 1, **more}
    return calibrate(pipe, folder, **given)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a calibration, by its path in it, but pictures."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".png"
    }


def stop_when(reached: Callable[[str, Calibration], bool], error: type[BaseException]) -> Any:
    """An ``on_progress`` that raises."""

    def on_progress(what: str, left_s: float, calibration: Calibration) -> None:
        if reached(what, calibration):
            raise error

    return on_progress


if __name__ == "__main__":
    torch.set_num_threads(1)
    if on_ranks.launched():
        on_ranks.meet()
    if on_ranks.leads():
        spread = on_ranks.on_ranks if on_ranks.launched() else here
        quick(worker_pipeline(), Path(sys.argv[1]), spread=spread)
    else:
        judged, plain = [], judging.Judge.__call__
        judging.Judge.__call__ = lambda self, steps: (judged.append(steps), plain(self, steps))[1]  # type: ignore
        on_ranks.serve(worker_pipeline())
        print("rank 1 judged", len(judged))
