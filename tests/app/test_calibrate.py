"""The tab Calibrate without a browser: where a search lies, and how what it found is opened."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dit_accel.app.device import Device
from dit_accel.app.places import Places
from dit_accel.app.plans import shipped_folder
from dit_accel.app.searches import REQUEST_FILE, Request, Search
from dit_accel.pipelines.loading import folder_of_model

gradio = pytest.importorskip("gradio", reason="the extra 'app' is not installed")


@pytest.fixture
def tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A search that is begun is written down and does not run."""
    from dit_accel.app.tab_calibrate import CalibrateTab

    def start(search: Search, request: Request) -> None:
        search.folder.mkdir(parents=True)
        data = {"model": request.model, "name": request.name, "budget_s": request.budget_s}
        (search.folder / REQUEST_FILE).write_text(json.dumps(data))
        (search.folder / "judged.json").write_text("{}")

    monkeypatch.setattr(Search, "start", start)
    places = Places(root=tmp_path, output=tmp_path / "out")
    with gradio.Blocks():
        opened, explore_models = gradio.State({}), gradio.Dropdown([])
        with gradio.Tabs() as tabs:
            pass
        return CalibrateTab(places, Device(places=places), opened, explore_models, tabs, "emoji-flux")


@pytest.mark.parametrize("text", ["models/mine", " models/mine/ ", "./models/mine"])
def test_its_folder_is_the_one_of_the_command_line(tab: Any, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    search = tab._begun(text, 1, False, "", "", "", "")
    assert search.folder == tab.places.searches / folder_of_model(folder)
    assert search.name == search.request.name == "mine" and search.request.model == str(folder)
    shutil.copytree(shipped_folder() / "emoji-flux" / "fast", search.folder / "7-of-28")
    opened = tab.open(search.name, {})[0]
    model = opened["search: mine"].model
    assert tab.places.model(model) == str(folder), "what is opened can be drawn with"


def test_a_hub_id_and_an_embedded_name(tab: Any) -> None:
    assert tab._begun(" user/model ", 1, False, "", "", "", "").name == "user--model"
    assert tab._begun("emoji-flux", 1, False, "", "", "", "").name == "emoji-flux"
