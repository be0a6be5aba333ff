"""Plans of one's own, beside those that ship: found in folders that the caller or the environment names.

export DIT_ACCEL_PLANS=outputs/certify      # where `dit-accel certify` puts them; several: a:b
accelerate_pipeline(pipe, max_lpips=0.05)   # chooses from them too
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dit_accel.errors import ConfigError
from dit_accel.plan.plan import PLAN_FILE, AccelerationPlan
from dit_accel.runtime.observe import warn_user

ENVIRONMENT = "DIT_ACCEL_PLANS"

Folders = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPlan:
    """A plan and the folder that it lies in."""

    plan: AccelerationPlan
    folder: Path


def own_plans(folders: Folders | None = None) -> tuple[OwnPlan, ...]:
    """All plans in and below folders, in the order of their paths.

    A plan that cannot be read is warned of and left out: what somebody else's calibration has left half-written is no
    reason to refuse a run.

    Args:
        folders: One or several; ``None``: those that the variable ``DIT_ACCEL_PLANS`` names, if it is set.

    Raises:
        ConfigError: One is not there.
    """
    found = []
    for folder in _named(folders):
        if not folder.is_dir():
            said = f"'{ENVIRONMENT}' names" if folders is None else "'plans' names"
            raise ConfigError(f"{said} a folder of plans that is not there: '{folder}'")
        for file in sorted(folder.rglob(PLAN_FILE)):
            try:
                found.append(OwnPlan(plan=AccelerationPlan.from_pretrained(file.parent), folder=file.parent))
            except ConfigError as error:
                warn_user(f"left out a plan that cannot be read: {error}")
    return tuple(found)


def _named(folders: Folders | None) -> Iterator[Path]:
    if folders is None:
        parts: Sequence[str | Path] = [part for part in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if part]
    else:
        parts = [folders] if isinstance(folders, str | Path) else folders
    yield from (Path(part).expanduser() for part in parts)
