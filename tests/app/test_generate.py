"""The tab Generate without a browser: where it writes, and how many steps either run takes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dit_accel.app.device import Device, Drawn
from dit_accel.app.library import Library
from dit_accel.app.pictures import Kept
from dit_accel.app.places import Places
from dit_accel.app.points import Front, FrontPoint
from dit_accel.app.views import Explorer

gradio = pytest.importorskip("gradio", reason="the extra 'app' is not installed")

PLAIN = FrontPoint(key="plain", label="plain", kind="plain", num_steps=4)
FAST = FrontPoint(key="ours/fast", label="fast", kind="ours", num_steps=3, preset="fast")
FEWER = FrontPoint(key="fewer/2", label="plain, 2 steps", kind="fewer_steps", num_steps=2)
OPENED = {"tiny": Front(model="tiny", points=(PLAIN, FAST, FEWER), num_steps=4)}


class Recorder(Device):
    """Draws nothing, and remembers how it was asked."""

    def pipe(self, model: str) -> None:
        return None

    def draw(self, *asked: Any) -> Drawn:
        self._pipes.setdefault("asked", []).append(asked)
        return Drawn(sample=torch.rand(3, 8, 8), seconds=0.1)


@pytest.fixture
def tab(tmp_path: Path) -> Any:
    from dit_accel.app.tab_generate import GenerateTab

    output = tmp_path / "out"
    device = Recorder(places=Places(root=tmp_path, output=output))
    with gradio.Blocks():
        opened, explored = gradio.State({}), gradio.State(None)
        return GenerateTab(Explorer(Library(()), device, Kept(output)), "emoji-flux", opened, explored, output)


def drawn(tab: Any, key: str = "ours/fast", steps: str = "", visit: str = "abc") -> list[Any]:
    """What the page is told at the end."""
    request = SimpleNamespace(session_hash=visit)
    return list(tab.run("tiny", key, "a cat", 0, steps, "", OPENED, request))[-1]


@pytest.mark.parametrize("visit", ["{root}/evil/x", "../x", "../../../x"])
def test_the_name_of_a_visit_leads_nowhere(tab: Any, tmp_path: Path, visit: str) -> None:
    """It is a field of what the browser sends, so anybody can send another one."""
    shown = drawn(tab, visit=visit.format(root=tmp_path))
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) == 4 and {file.parent for file in files} == {tmp_path / "out" / "app" / "generated"}
    assert {str(file) for file in files} >= set(shown[:3])


@pytest.mark.parametrize(
    ("key", "steps", "taken"), [("ours/fast", "", (4, 3)), ("ours/fast", "5", (5, 5)), ("fewer/2", "5", (5, 2))]
)
def test_a_point_takes_the_steps_it_was_measured_in(tab: Any, key: str, steps: str, taken: tuple[int, int]) -> None:
    drawn(tab, key, steps)
    _, plain, fast = tab.explorer.device._pipes["asked"]  # after a warm-up
    assert (plain[3].num_inference_steps, fast[3].num_inference_steps) == taken
