"""Reads plan folders for show: what they say, and what their reports measured. Without torch, for a quick first page.

Whether a certificate is whole and of its plan takes the plan's tensors, and so torch: :func:`checked` says that later.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from dit_accel.errors import ConfigError, DitAccelError
from dit_accel.evaluation.reports.report import REPORT_FILE, Report
from dit_accel.plan.certificate import Certificate
from dit_accel.plan.file import PlanFile
from dit_accel.plan.plan import FORMAT, NOT_CERTIFIED, PLAN_FILE

PRESET_ORDER = ("lossless", "light", "balanced", "fast", "turbo", "extreme")


@dataclass(frozen=True)
class PlanFolder:
    """A plan on disk, with the report that its certificate was made from, if that lies beside it.

    Attributes:
        folder: Where it is.
        file: The checked JSON.
        certificate: As it stands in the file.
        report: ``None`` without one; one that the certificate was not made from is left aside.
    """

    folder: Path
    file: PlanFile
    certificate: Certificate | None
    report: Report | None

    @property
    def name(self) -> str:
        """The plan's name."""
        return self.file.name

    @property
    def why_not(self) -> str:
        """Why it is not certified, as far as can be told without torch; empty: it seems to be."""
        if self.certificate is None:
            notes = [note for note in self.file.notes if NOT_CERTIFIED in note]
            return notes[0] if notes else "it carries no certificate"
        if self.report is None:
            return "the report that its certificate was made from does not lie beside it"
        return ""

    @property
    def saves_memory_alone(self) -> bool:
        """Whether it does nothing but give weights few bits: no trade of speed, and slow to draw with on a CPU."""
        return bool(self.file.passes) and all(entry.get("type") == "quantize" for entry in self.file.passes)

    @cached_property
    def computed(self) -> str | None:
        """Of a trajectory plan with steps of its own: a 1 for each computed evaluation, a 0 for each answered one."""
        for entry in self.file.passes:
            if entry.get("type") == "trajectory" and isinstance(entry.get("computed"), str):
                return str(entry["computed"])
        return None

    @property
    def answered_frac(self) -> float | None:
        """Share of the evaluations that are answered without the denoiser."""
        return None if not self.computed else self.computed.count("0") / len(self.computed)


def read_plan_file(folder: Path) -> PlanFile:
    """Read the JSON of a plan.

    Raises:
        ConfigError: There is no plan, or it is not valid.
    """
    path = folder / PLAN_FILE
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"no plan in '{folder}': {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not valid JSON ({error}); the file may be truncated") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ConfigError(f"'{path}' is not a dit-accel plan: its 'format' is not '{FORMAT}'")
    return PlanFile.checked(data, str(path))


def read_plan_folder(folder: Path) -> PlanFolder:
    """Read a plan and its report.

    Raises:
        ConfigError: There is no plan, or it, its certificate or its report is not valid.
    """
    path = folder / PLAN_FILE
    file = read_plan_file(folder)
    certificate = None if file.certificate is None else Certificate.checked(file.certificate, str(path))
    report_path = folder / REPORT_FILE
    report = Report.load(report_path) if report_path.is_file() else None
    if certificate is not None and report is not None and not certificate.is_of_report(report_path):
        report = None
    return PlanFolder(folder=folder, file=file, certificate=certificate, report=report)


def checked(folder: Path) -> str:
    """Why the plan in a folder is not certified, by its digests; empty: it is. Imports torch.

    Raises:
        ConfigError: The plan cannot be read.
    """
    from dit_accel.plan.plan import AccelerationPlan

    plan = AccelerationPlan.from_pretrained(folder)
    if plan.certificate is None:
        return "it carries no certificate"
    return plan.certificate_fault or ""


def shipped_folder() -> Path:
    """Where plans ship: a folder a model, in it a folder a preset."""
    return Path(str(resources.files("dit_accel.schedules"))) / "plans"


def plans_of(model_folder: Path) -> tuple[list[PlanFolder], list[str]]:
    """The plans in the folders of a folder, mildest first, and what could not be read, in words."""
    found, faults = [], []
    for path in sorted(model_folder.glob(f"*/{PLAN_FILE}")):
        try:
            found.append(read_plan_folder(path.parent))
        except DitAccelError as error:
            faults.append(str(error))
    return sorted(found, key=_mildest_first), faults


def _mildest_first(plan: PlanFolder) -> tuple[int, float, str]:
    place = PRESET_ORDER.index(plan.name) if plan.name in PRESET_ORDER else len(PRESET_ORDER)
    return place, plan.answered_frac or 0.0, plan.name
