"""Plans of a folder join the rivals, and a report names them below that folder."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rivals.scheduled import Ours

from dit_accel import load_embedded
from dit_accel.families.targets import find_targets
from dit_accel.session.presets import shipped_plan
from dit_accel.session.session import session_of


def test_plans_of_a_folder_are_found_named_and_applied(tmp_path: Path) -> None:
    pipe = load_embedded("emoji-flux")
    plan = shipped_plan("turbo", find_targets(pipe))
    assert plan is not None
    plan.save_pretrained(tmp_path / "some" / "7-of-28")
    ours, task = Ours(), SimpleNamespace(num_inference_steps=28)
    ours.plans = tmp_path
    found: dict[str, Any] = {setting.name: setting for setting in ours.settings(pipe, task)}
    setting = found["dit-accel 7-of-28"]
    assert setting.params == {"folder": "some/7-of-28"}
    ours.attach(pipe, setting, task)
    session = session_of(pipe)
    assert session is not None and session.plan.passes == plan.passes
    ours.detach(pipe)
    assert session_of(pipe) is None
    ours.attach(pipe, found["dit-accel turbo"], task)
    assert session_of(pipe) is not None
