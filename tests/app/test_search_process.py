"""What the process of a search makes of what was found, without a pipeline: what it chooses, certifies, and says."""

from pathlib import Path
from typing import Any

import pytest

from dit_accel.app.search_process import SearchProcess
from dit_accel.app.searches import REQUEST_FILE, Search
from dit_accel.evaluation.certify import certify as certifying
from dit_accel.evaluation.progress_files import write_json
from dit_accel.passes.trajectory.apply import TrajectoryConfig
from dit_accel.plan.plan import AccelerationPlan


def plan_of(computed: tuple[int, ...], num_steps: int = 8) -> AccelerationPlan:
    config = TrajectoryConfig(computed=tuple(step in computed for step in range(num_steps)))
    return AccelerationPlan(name=f"trajectory-{len(computed)}-of-{num_steps}", passes=(config,))


@pytest.fixture
def certified(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that plans were certified in."""
    folders: list[Path] = []

    def certify(pipe: Any, plan: AccelerationPlan, folder: Path, **_: Any) -> None:
        plan.save_pretrained(folder)
        folders.append(folder)

    monkeypatch.setattr(certifying, "certify", certify)
    return folders


def process(folder: Path, **asked: Any) -> SearchProcess:
    request = {"model": "emoji-flux", "name": "emoji-flux", "budget_s": 1.0, "certify": True, **asked}
    write_json(folder / REQUEST_FILE, request)
    return SearchProcess(Search(folder))


def test_a_better_plan_of_the_same_name_is_certified_too(tmp_path: Path, certified: list[Path]) -> None:
    for computed in ((0, 3, 6), (0, 2, 5), (0, 2, 5)):
        process(tmp_path)._certify(None, plan_of(computed))
    assert len(certified) == 2 and certified[0] != certified[1]
    assert all(folder.name.startswith("certified-trajectory-3-of-8-") for folder in certified)
