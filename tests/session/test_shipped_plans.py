"""Every plan that ships is for the weights that ship; its certificate is whole and of the report beside it, or it says
that it has none."""

import warnings
from pathlib import Path

import pytest

import dit_accel.schedules
from dit_accel import AccelerationPlan, load_embedded
from dit_accel.errors import AccelerationWarning
from dit_accel.evaluation.reports.report import REPORT_FILE, Report
from dit_accel.families.targets import find_targets
from dit_accel.plan.plan import NOT_CERTIFIED, PLAN_FILE
from dit_accel.session.presets import PRESETS, resolve_preset
from dit_accel.session.session import check_plan

FOLDERS = sorted(path.parent for path in (Path(dit_accel.schedules.__file__).parent / "plans").rglob(PLAN_FILE))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_shipped_plan(folder: Path) -> None:
    plan = AccelerationPlan.from_pretrained(folder)
    assert plan.name == folder.name and plan.name in PRESETS
    if plan.certificate is None:
        assert any(NOT_CERTIFIED in note for note in plan.notes) and not (folder / REPORT_FILE).exists()
    else:
        assert plan.certificate_fault is None and plan.is_certified
        assert not any(NOT_CERTIFIED in note for note in plan.notes)
        assert plan.certificate.model == folder.parent.name
        assert plan.certificate.is_of_report(folder / REPORT_FILE)
        assert Report.load(folder).variant(plan.name).fidelity is not None
    targets = find_targets(load_embedded(folder.parent.name))
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccelerationWarning)
        assert resolve_preset(plan.name, targets) == plan
    assert check_plan(plan, targets) == [], "certified on other weights than those that ship: certify again"
