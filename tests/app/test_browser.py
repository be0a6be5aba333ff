"""The explorer in a real browser: each tab, each way to choose a point, drawing, stopping, bad files."""

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from explorer_pages import agree, brush, choose_model, go_to, rows, says, type_limit, wait_for, wait_for_pictures

from dit_accel.app.fronts import front_of_model
from dit_accel.app.plans import shipped_folder

FLUX = shipped_folder() / "emoji-flux"


def test_first_paint_is_quick_and_whole(open_page: Any) -> None:
    page = open_page()
    assert page.locator("#plot .pt.ours").count() >= 4
    assert page.locator("#plot .pt.fewer_steps").count() >= 3
    assert "lower is better" in page.locator("#plot svg").get_attribute("aria-label")
    assert "load_embedded" in page.locator("#code").inner_text()
    assert page.locator("#heat .cell.answered").count() > 10


def test_every_gesture_chooses_the_same_point(open_page: Any, keep_screenshot: Any) -> None:
    """Click, keyboard, row, thumbnail, time typed and by arrow key, brush, quality: all end at the same point."""
    page = open_page()
    wait_for_pictures(page)
    keep_screenshot(page, "explore", full=True)
    front = front_of_model("emoji-flux")
    fast = front.point("ours/fast")
    seconds, error = front.time_s(fast), fast.errors["st_lpips"].mean
    assert seconds is not None

    def away() -> None:
        page.locator('#plot .pt[data-key="ours/extreme"] .m').click()
        agree(page, "ours/extreme", "extreme")

    gestures: dict[str, Callable[[], Any]] = {
        "click": lambda: page.locator('#plot .pt[data-key="ours/fast"] .m').click(),
        "row": lambda: rows(page).filter(has_text="fast").first.locator("[role=gridcell]").nth(1).click(),
        "thumbnail": lambda: page.locator("#thumbs button.thumbnail-item").filter(has_text="fast").first.click(),
        "time": lambda: type_limit(page, "time", f"{seconds:.3g}"),
        "quality": lambda: type_limit(page, "quality", f"{error:.3g}"),
        "brush": lambda: brush(page, seconds * 0.97, seconds * 1.03),
    }
    for choose in gestures.values():
        away()
        choose()
        agree(page, "ours/fast", "fast")
    assert page.locator("#thumbs button.selected").inner_text() == "fast"


def test_the_keyboard_alone(open_page: Any) -> None:
    """Enter chooses, arrows go from point to point and from stop to stop, and the focus is not lost on the way."""
    page = open_page()
    wait_for_pictures(page)
    page.locator('#plot .pt[data-key="ours/turbo"]').focus()
    page.keyboard.press("ArrowLeft")
    focused = page.evaluate("document.activeElement.dataset.key")
    assert focused != "ours/turbo"
    page.keyboard.press("Enter")
    wait_for(page, focused)
    page.wait_for_function("key => document.activeElement.dataset.key === key", arg=focused)
    page.locator('#time input[type="range"]').focus()
    before = float(page.locator("#time .dial").get_attribute("data-value"))
    page.keyboard.press("ArrowRight")
    page.wait_for_function("value => +document.querySelector('#time .dial').dataset.value > value", arg=before)
    page.wait_for_function("document.activeElement.type === 'range'")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("value => +document.querySelector('#time .dial').dataset.value <= value", arg=before)
    page.locator("#thumbs button.thumbnail-item").filter(has_text="balanced").first.focus()
    page.keyboard.press("Enter")
    wait_for(page, "ours/balanced")


def test_out_of_reach_is_said(open_page: Any) -> None:
    page = open_page()
    type_limit(page, "time", "0.001")
    page.wait_for_selector("#explore-message .bad")
    assert "the nearest" in page.locator("#explore-message").inner_text()


def test_rivals_and_another_metric(open_page: Any, keep_screenshot: Any) -> None:
    page = open_page()
    page.locator("#rivals input").check()
    page.wait_for_selector("#plot .pt.rival")
    assert page.locator("#plot .pt.beaten").count() > 10
    page.locator("#metric input").click()
    page.get_by_role("option", name="PSNR").click()
    page.wait_for_selector('#plot svg[aria-label*="PSNR"]')
    assert "higher is better" in page.locator("#plot svg").get_attribute("aria-label")
    keep_screenshot(page, "rivals")


def test_a_slow_model_is_not_drawn_unasked(open_page: Any, keep_screenshot: Any) -> None:
    page = open_page()
    choose_model(page, "emoji-wan")
    page.wait_for_selector('#plot svg[aria-label*="emoji-wan"]')
    assert "certified" in page.locator("#verdict").inner_text()
    page.wait_for_selector("#draw:visible")
    assert "takes about" in page.locator("#drawing").inner_text()
    keep_screenshot(page, "slow-model")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone(open_page: Any, keep_screenshot: Any, dark: bool) -> None:
    page = open_page(390, 844, dark=dark)
    wait_for_pictures(page)
    page.locator('#plot .pt[data-key="ours/fast"] .m').click()
    wait_for(page, "ours/fast")
    wait_for_pictures(page)
    keep_screenshot(page, f"phone-{'dark' if dark else 'light'}")
    for tab in ("Explore", "Generate", "Calibrate", "Open"):
        hidden = page.locator("button[role=tab]:visible").filter(has_text=tab).count() == 0
        if hidden:  # behind the button with three dots
            page.locator(".overflow-menu > button").click()
            page.locator(".overflow-dropdown button").filter(has_text=tab).click()
        else:
            go_to(page, tab)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab


def test_a_whole_generation(open_page: Any, keep_screenshot: Any) -> None:
    page = open_page()
    go_to(page, "Generate")
    page.locator("#g-prompt textarea, #g-prompt input").fill("an owl")
    page.locator("#g-go").click()
    page.wait_for_selector("#g-plain img")
    says(page, "#g-status", "as fast, one run each")
    assert page.locator("#g-difference img").count() == 1
    summary = page.locator("#g-summary").inner_text()
    assert "(certified)" in summary and "does not cover" not in summary
    keep_screenshot(page, "generate")


def test_a_cancelled_generation(open_page: Any, keep_screenshot: Any) -> None:
    page = open_page()
    go_to(page, "Generate")
    page.locator("#g-steps textarea, #g-steps input").fill("200")
    page.locator("#g-go").click()
    says(page, "#g-status", "step ")
    page.locator("#g-stop").click()
    says(page, "#g-status", "nothing is kept")
    keep_screenshot(page, "cancelled")
    assert page.locator("#g-go").is_enabled()


def test_an_empty_prompt_is_one_clear_message(open_page: Any) -> None:
    page = open_page()
    go_to(page, "Generate")
    page.locator("#g-prompt textarea, #g-prompt input").fill("  ")
    page.locator("#g-go").click()
    page.wait_for_selector("#g-status .bad")
    assert "no prompt" in page.locator("#g-status").inner_text()
    page.locator("#g-prompt textarea, #g-prompt input").fill("an owl")
    page.locator("#g-steps textarea, #g-steps input").fill("many")
    page.locator("#g-go").click()
    says(page, "#g-status", "Steps is a number")


def test_open_a_plan_and_a_bad_upload(open_page: Any, served: Any, keep_screenshot: Any) -> None:
    folder = served[1] / "in" / "theirs"
    if not folder.exists():
        shutil.copytree(FLUX / "turbo", folder)
    page = open_page()
    go_to(page, "Open")
    page.locator("#o-files input[type=file]").set_input_files(
        {"name": "report.json", "mimeType": "application/json", "buffer": b'{"format": "something"}'}
    )
    page.wait_for_selector("#o-message .bad")
    assert "is no dit-accel file" in page.locator("#o-message").inner_text()
    keep_screenshot(page, "bad-upload")
    page.locator("#o-path textarea, #o-path input").fill("../../etc/passwd")
    page.locator("#o-go").click()
    says(page, "#o-message", "outside")
    page.locator("#o-path textarea, #o-path input").fill("theirs")
    page.locator("#o-go").click()
    says(page, "#o-message", "chosen in Explore")
    page.locator("#o-look").click()
    page.wait_for_selector('#plot .pt[data-key="ours/theirs"]:visible')
    assert "certified" in page.locator("#verdict").inner_text()


def test_names_in_a_report_are_text_and_never_code(open_page: Any, served: Any) -> None:
    data = json.loads((FLUX / "fast" / "report.json").read_text())
    evil = '<img src=x onerror="document.title=`hit`">${document.title="hit"}{{7*7}}'
    for variant in data["variants"]:
        if variant["kind"] == "plan":
            variant["name"] = evil
    (served[1] / "in" / "evil.json").write_text(json.dumps(data))
    page = open_page()
    go_to(page, "Open")
    page.locator("#o-path textarea, #o-path input").fill("evil.json")
    page.locator("#o-go").click()
    says(page, "#o-message", "chosen in Explore")
    go_to(page, "Explore")
    page.wait_for_function("document.querySelector('#verdict h3').innerText.includes('onerror')")
    assert page.title() != "hit"
    assert "{{7*7}}" in page.locator("#verdict h3").inner_text()
