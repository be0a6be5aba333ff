"""Where a training tells of itself: the logger, a file of JSON lines, and TensorBoard where it is installed."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger("dit_accel")


class TrainLog:
    """Of one training.

    Args:
        name: Of the method.
        run_dir: Folder of ``NAME.log.jsonl`` and ``tensorboard/``.
    """

    def __init__(self, name: str, run_dir: Path) -> None:
        self.name, self.run_dir = name, run_dir
        self._board: Any = None

    def write(self, step: int, steps: int, seconds: float, losses: Mapping[str, float]) -> None:
        """Tell the mean losses of the steps since the last time."""
        told = "  ".join(f"{name} {loss:.5f}" for name, loss in losses.items())
        eta_min = seconds / max(step, 1) * (steps - step) / 60
        logger.info("%s %5d/%d  %s  eta %.0f min", self.name, step, steps, told, eta_min)
        record = {"step": step, "train_seconds": round(seconds, 2), **losses}
        with (self.run_dir / f"{self.name}.log.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is None:
            self._board = _tensorboard(self.run_dir)
        if self._board is not False:
            for name, loss in losses.items():
                self._board.add_scalar(f"loss/{name}", loss, step)


def _tensorboard(run_dir: Path) -> Any:
    """A writer, or ``False`` where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return False
    return SummaryWriter(run_dir / "tensorboard")
