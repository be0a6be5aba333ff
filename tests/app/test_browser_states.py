"""States that a person will meet: no memory, a refused model, a plan for another one, being quicker than the page."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from explorer_pages import choose_model, forget_pictures, go_to, says, wait_for, wait_for_pictures

from dit_accel.app.device import Device
from dit_accel.app.library import Library
from dit_accel.app.plans import shipped_folder

FLUX = shipped_folder() / "emoji-flux"


def test_no_memory(open_page: Any, served: Any, keep_screenshot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    errors = [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), MemoryError()]

    def draw(*args: object, **kwargs: object) -> None:
        raise errors[0]

    forget_pictures(served[1])
    monkeypatch.setattr(Device, "draw", draw)
    page = open_page()
    says(page, "#drawing", "There was not enough memory")
    assert "Tried to allocate" in page.locator("#drawing").inner_text()
    assert page.locator("#draw").is_visible(), "it can be tried again"
    go_to(page, "Generate")
    errors.pop(0)
    page.locator("#g-go").click()
    says(page, "#g-status", "There was not enough memory")
    assert page.locator("#g-go").is_enabled()
    keep_screenshot(page, "no-memory")
    monkeypatch.undo()
    go_to(page, "Explore")
    page.locator("#draw").click()
    wait_for_pictures(page)


def test_a_model_that_is_refused(open_page: Any, served: Any, keep_screenshot: Any) -> None:
    folder = served[1] / "in" / "odd"
    folder.mkdir(exist_ok=True)
    (folder / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    page = open_page()
    go_to(page, "Open")
    page.locator("#o-path textarea, #o-path input").fill("odd")
    page.locator("#o-go").click()
    says(page, "#o-message", "takes no prompt")
    keep_screenshot(page, "refused")
    page.locator("#o-path textarea, #o-path input").fill("some/where-else")
    page.locator("#o-go").click()
    says(page, "#o-message", "nothing was found on the hub at 'some/where-else'")


def test_a_plan_for_another_model(open_page: Any, served: Any, keep_screenshot: Any) -> None:
    """A plan that says of no model that it is for it is opened for the wrong one, and drawn with."""
    folder = served[1] / "in" / "strange"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = json.loads((FLUX / "fast" / "dit_accel_plan.json").read_text())
    data["certificate"], data["fingerprint"]["sites"] = None, "0" * 16
    (folder / "dit_accel_plan.json").write_text(json.dumps(data))
    shutil.copy(FLUX / "fast" / "dit_accel_plan.safetensors", folder)
    page = open_page()
    go_to(page, "Open")
    page.locator("#o-path textarea, #o-path input").fill("strange")
    page.locator("#o-go").click()
    says(page, "#o-message", "does not say which model")
    page.locator("#o-model textarea, #o-model input").fill("emoji-pixart")
    page.locator("#o-go").click()
    says(page, "#o-message", "nothing is measured yet")
    page.locator("#o-look").click()
    page.wait_for_selector("#draw:visible")
    page.locator("#draw").click()
    says(page, "#drawing", "the plan is for a FluxTransformer2DModel")
    keep_screenshot(page, "other-model")


def test_a_model_chosen_while_the_page_is_still_waking(
    open_page: Any, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun for the first model comes to its end later than the choice of the second: it may not show up."""
    go_on, reached = threading.Event(), threading.Event()
    verify = Library.verify

    def slow(library: Library, name: str) -> Any:
        if name == "emoji-flux" and not go_on.is_set():
            reached.set()
            assert go_on.wait(100)
        return verify(library, name)

    monkeypatch.setattr(Library, "verify", slow)
    page = open_page()
    assert reached.wait(100)
    choose_model(page, "emoji-wan")
    page.wait_for_selector('#plot svg[aria-label*="emoji-wan"]')
    go_on.set()
    says(page, "#drawing", "takes about")
    page.wait_for_timeout(3000)
    assert "emoji-wan" in page.locator("#plot svg").get_attribute("aria-label")
    assert "emoji-wan" in page.locator("#code").inner_text()
    assert page.locator("#model input").input_value() == "emoji-wan"
    assert page.locator("#pair img").count() == 0


def test_a_model_chosen_while_the_first_drawing_runs(
    open_page: Any, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_pictures(served[1])
    go_on, reached = threading.Event(), threading.Event()
    drawn: list[str] = []
    draw = Device.draw

    def slow(device: Device, model: str, *args: Any, **kwargs: Any) -> Any:
        drawn.append(model)
        if model == "emoji-flux":
            reached.set()
            assert go_on.wait(100)
        return draw(device, model, *args, **kwargs)

    monkeypatch.setattr(Device, "draw", slow)
    page = open_page()
    first = page.locator("#plot .pt.chosen").get_attribute("data-key")
    assert reached.wait(100)
    choose_model(page, "emoji-wan")
    page.wait_for_selector('#plot svg[aria-label*="emoji-wan"]')
    go_on.set()
    says(page, "#drawing", "takes about")
    page.wait_for_timeout(2000)
    assert page.locator("#pair img").count() == 0, "a picture of the first model"
    assert drawn.count("emoji-flux") <= 2, "the first drawing went on"
    choose_model(page, "emoji-flux")
    wait_for(page, first)
    wait_for_pictures(page)
    assert page.locator("#pair img").count() >= 2


def test_a_pipeline_of_ones_own_is_drawn_with(open_page: Any, served: Any) -> None:
    from tiny_text import save_tiny_text_pipeline

    save_tiny_text_pipeline(Path(served[1]) / "in" / "mine")
    page = open_page()
    go_to(page, "Open")
    page.locator("#o-path textarea, #o-path input").fill("mine")
    page.locator("#o-go").click()
    says(page, "#o-message", "nothing is measured yet")
    page.locator("#o-look").click()
    says(page, "#drawing", "Nobody has timed this model yet")
    says(page, "#heat", "full_steps")
    page.locator("#draw").click()
    page.wait_for_selector("#pair img")
    go_to(page, "Generate")
    page.locator("#g-steps textarea, #g-steps input").fill("6")
    page.locator("#g-go").click()
    says(page, "#g-status", "one run each")
    assert "not certified" in page.locator("#g-summary").inner_text()


def test_a_comparison_grid(open_page: Any, tmp_path: Path, keep_screenshot: Any) -> None:
    from PIL import Image

    page = open_page()
    wait_for_pictures(page)
    page.locator("#grid").click()
    says(page, "#grid-words", "is ready", patience=5)
    with page.expect_download() as download:
        page.locator("#grid-file").click()
    download.value.save_as(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.width > 800 and sheet.height > 1500
    keep_screenshot(page, "grid-saved")


def test_a_video_loops_and_so_does_its_difference(open_page: Any, tmp_path: Path, keep_screenshot: Any) -> None:
    from PIL import Image

    page = open_page()
    go_to(page, "Generate")
    choose_model(page, "emoji-wan", "#g-model")
    page.locator("#g-prompt textarea, #g-prompt input").fill("a frog face grows")
    page.locator("#g-steps textarea, #g-steps input").fill("4")
    page.locator("#g-go").click()
    says(page, "#g-status", "one run each", patience=5)
    found = {}
    for name in ("plain", "fast", "difference"):
        image = page.locator(f"#g-{name} img")
        page.wait_for_function("image => image.complete && image.naturalWidth >= 256", arg=image.element_handle())
        file = tmp_path / f"{name}.webp"
        file.write_bytes(page.request.get(image.get_attribute("src")).body())
        with Image.open(file) as frames:
            found[name] = (frames.n_frames, frames.info.get("loop"))
            last = frames.n_frames - 1
            frames.seek(last)
            assert frames.convert("L").getextrema()[1] > 0, f"{name} is black"
    assert found["plain"] == found["fast"] == found["difference"] and found["plain"][0] > 4 and found["plain"][1] == 0
    assert page.locator("#g-pair").count() == 0 or not page.locator("#g-pair").is_visible()
    first = page.locator("#g-plain").screenshot()
    moved = False
    for _ in range(40):
        page.wait_for_timeout(50)
        moved = moved or page.locator("#g-plain").screenshot() != first
    assert moved, "the video does not play"
    keep_screenshot(page, "video")
