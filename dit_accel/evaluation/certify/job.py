"""What a certification has done so far, on disk, so that a killed one goes on where it was and ends in equal numbers.

``FOLDER/progress/`` holds ``job.json`` (what is being certified), ``timing/report.json``, the plain images of every
batch, and the scores of every batch. Where plain images are to be kept for the next plan of the model they lie
elsewhere, in a folder named by everything that they depend on. All files appear whole or not at all.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dit_accel.errors import ConfigError
from dit_accel.evaluation.progress_files import claim, read_json, write_whole
from dit_accel.evaluation.reports.records import Record
from dit_accel.evaluation.reports.report import REPORT_FILE, Effects, Report
from dit_accel.plan.conditions import Conditions
from dit_accel.plan.plan import PLAN_FILE

if TYPE_CHECKING:
    import torch

PROGRESS = "progress"
JOB_FILE = "job.json"


class BatchScores(Record):
    """What one variant's batch came to.

    Attributes:
        fidelity: Fields of ``FidelityScores`` that were measured, one value an image or video.
        effects: What the passes did; ``None`` without a plan.
        conditions: What could be told of the run.
    """

    fidelity: dict[str, tuple[float, ...]]
    effects: Effects | None = None
    conditions: Conditions | None = None


class CertifyJob:
    """One certification's folder.

    Args:
        folder: Where the certified plan will be; made if need be.
        identity: Everything that numbers depend on, as JSON data. Only a job with an equal one is gone on with.
        plain: Folder in which plain images stay for other certifications; ``None``: with this one, until it is done.

    Raises:
        ConfigError: The folder holds a finished certification, or an unfinished one of something else, or cannot be
            written.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], plain: Path | None = None) -> None:
        self.folder = folder
        self.progress = folder / PROGRESS
        self.plain_folder = plain or self.progress / "plain"
        if read_json(self.progress / JOB_FILE) is None:
            if any((folder / name).exists() for name in (PLAN_FILE, REPORT_FILE)):
                raise ConfigError(
                    f"'{folder}' holds a plan or a report already; give another folder, or empty this one"
                )
            self.finish()  # batches of nobody knows what
        claim(self.progress / JOB_FILE, identity, "an unfinished certification")

    def timing(self) -> Report | None:
        """The comparison that was timed, if it was."""
        path = self.progress / "timing" / REPORT_FILE
        return Report.load(path) if path.exists() else None

    def keep_timing(self, report: Report) -> None:
        """Keep it."""
        write_whole(self.progress / "timing" / REPORT_FILE, report.model_dump_json(indent=1).encode())

    def plain(self, batch: int) -> "torch.Tensor | None":
        """The plain images of a batch, if they were made."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            images: torch.Tensor = load_file(self._plain(batch))["images"]
            return images
        except (OSError, SafetensorError, KeyError):  # not there, or damaged: to be made again
            return None

    def keep_plain(self, batch: int, images: "torch.Tensor") -> None:
        """Keep them: float32 as they are, for fidelity must not be that of a rounded picture."""
        from safetensors.torch import save

        write_whole(self._plain(batch), save({"images": images.contiguous()}))

    def scores(self, variant: str, batch: int) -> BatchScores | None:
        """The scores of a variant's batch, if it was made."""
        data = read_json(self._scores(variant, batch))
        try:
            return None if data is None else BatchScores.model_validate(data)
        except ValidationError:  # damaged: to be made again
            return None

    def keep_scores(self, variant: str, batch: int, scores: BatchScores) -> None:
        """Keep them."""
        write_whole(self._scores(variant, batch), scores.model_dump_json(indent=1).encode())

    def finish(self) -> None:
        """The result is written; what led to it goes."""
        shutil.rmtree(self.progress, ignore_errors=True)

    def _plain(self, batch: int) -> Path:
        return self.plain_folder / f"{batch:05}.safetensors"

    def _scores(self, variant: str, batch: int) -> Path:
        return self.progress / variant / f"{batch:05}.json"
