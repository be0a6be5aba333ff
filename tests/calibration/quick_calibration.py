"""A calibration of seconds: a tiny pipeline, two prompts, five steps, no perceptual network. Also run as a process."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_text import tiny_text_pipeline

from dit_accel.calibration import judging
from dit_accel.calibration.calibrate import Calibration, calibrate
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
    judging.available_perceptual = no_networks  # type: ignore[assignment]
    quick(quick_pipeline(), Path(sys.argv[1]))
