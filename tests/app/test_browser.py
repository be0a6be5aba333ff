"""The explorer in a real browser: each tab, each way to choose a point, drawing, stopping, bad files."""

import json
import shutil
from typing import Any

import pytest

from dit_accel.app.fronts import front_of_model
from dit_accel.app.plans import shipped_folder

FLUX = shipped_folder() / "emoji-flux"


def rows(page: Any) -> Any:
    """Those of the table that are drawn."""
    return page.locator("#table [role=row][data-index]")


def chosen(page: Any) -> dict[str, str]:
    """What every view says is chosen: plot, heading, table, gallery."""
    page.wait_for_timeout(300)
    heading = page.locator("#verdict h3").inner_text().split("\n")[0]
    row = (
        page.locator("#table [role=row][data-index]")
        .filter(has_text="●")
        .first.locator("[role=gridcell]")
        .nth(1)
        .inner_text()
    )
    return {
        "plot": page.locator("#plot .pt.chosen").get_attribute("data-key"),
        "heading": heading.split(" ✓")[0].split(" !")[0].strip(),
        "row": row.strip(),
    }


def wait_for(page: Any, key: str) -> None:
    page.wait_for_selector(f'#plot .pt.chosen[data-key="{key}"]')


def agree(page: Any, key: str, label: str) -> None:
    """Plot, heading, table, code and slider say the same."""
    wait_for(page, key)
    assert chosen(page) == {"plot": key, "heading": label, "row": label}


def wait_for_thumbnails(page: Any) -> None:
    page.wait_for_selector("#thumbs img")


def test_first_paint_is_quick_and_whole(open_page: Any) -> None:
    page = open_page()
    assert page.locator("#plot .pt.ours").count() >= 4
    assert page.locator("#plot .pt.fewer_steps").count() >= 3
    assert "lower is better" in page.locator("#plot svg").get_attribute("aria-label")
    assert "load_embedded" in page.locator("#code").inner_text()
    assert page.locator("#heat .cell.answered").count() > 10


def test_every_gesture_chooses_the_same_point(open_page: Any, keep_screenshot: Any) -> None:
    page = open_page()
    wait_for_thumbnails(page)
    keep_screenshot(page, "explore", full=True)
    page.locator('#plot .pt[data-key="ours/extreme"] .m').click()
    agree(page, "ours/extreme", "extreme")
    keep_screenshot(page, "move-1")
    page.locator('#plot .pt[data-key="ours/fast"]').focus()
    page.keyboard.press("Enter")
    agree(page, "ours/fast", "fast")
    assert '"fast"' in page.locator("#code").inner_text()

    rows(page).filter(has_text="extreme").locator("[role=gridcell]").nth(1).click()
    agree(page, "ours/extreme", "extreme")
    page.locator("#thumbs button.thumbnail-item").nth(2).click()
    agree(page, "ours/fast", "fast")

    front = front_of_model("emoji-flux")
    budget = front.time_s(front.point("ours/extreme"))
    assert budget is not None
    field = page.locator('#time input[type="number"]')
    field.fill(f"{budget * 1.02:.3f}")
    field.press("Enter")
    field.blur()
    agree(page, "ours/extreme", "extreme")


def test_a_brushed_range_of_times(open_page: Any) -> None:
    page = open_page()
    _brush(page, front_of_model("emoji-flux"), "ours/fast")
    agree(page, "ours/fast", "fast")


def _brush(page: Any, front: Any, key: str) -> None:
    """Drag across the times around a point."""
    svg = page.locator("#plot svg")
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    data = {name: float(svg.get_attribute(f"data-{name}")) for name in ("x0", "x1", "low", "high")}
    scale = box["width"] / 640
    seconds = front.time_s(front.point(key))

    def left(value: float) -> float:
        share = (value - data["low"]) / (data["high"] - data["low"])
        return float(box["x"] + scale * (data["x0"] + share * (data["x1"] - data["x0"])))

    y = box["y"] + scale * 200
    page.mouse.move(left(seconds * 0.93), y)
    page.mouse.down()
    page.mouse.move(left(seconds), y)
    page.mouse.move(left(seconds * 1.07), y)
    page.mouse.up()


def test_quality_target_and_out_of_reach(open_page: Any) -> None:
    page = open_page()
    page.locator('#plot .pt[data-key="ours/balanced"] .m').click()
    wait_for(page, "ours/balanced")
    field = page.locator('#quality input[type="number"]')
    field.fill("0.002")
    field.blur()
    wait_for(page, "ours/extreme")


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


def test_an_uncertified_model_says_so(open_page: Any, keep_screenshot: Any) -> None:
    page = open_page()
    wait_for_thumbnails(page)
    page.locator("#model input").click()
    page.get_by_role("option", name="emoji-wan").click()
    page.wait_for_selector('#plot svg[aria-label*="emoji-wan"]')
    assert "certified" in page.locator("#verdict").inner_text()
    page.wait_for_selector("#draw:visible")
    assert "takes about" in page.locator("#drawing").inner_text()
    keep_screenshot(page, "slow-model")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone(open_page: Any, keep_screenshot: Any, dark: bool) -> None:
    page = open_page(390, 844, dark=dark)
    wait_for_thumbnails(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator('#plot .pt[data-key="ours/fast"] .m').click()
    wait_for(page, "ours/fast")
    keep_screenshot(page, f"phone-{'dark' if dark else 'light'}", full=True)


def go_to(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def test_a_whole_generation(open_page: Any, keep_screenshot: Any) -> None:
    page = open_page()
    go_to(page, "Generate")
    page.locator("#g-prompt textarea, #g-prompt input").fill("an owl")
    page.locator("#g-go").click()
    page.wait_for_selector("#g-plain img")
    page.wait_for_function("document.querySelector('#g-status').innerText.includes('times as fast')")
    assert page.locator("#g-difference img").count() == 1
    summary = page.locator("#g-summary").inner_text()
    assert "(certified)" in summary and "does not cover" not in summary
    keep_screenshot(page, "generate")


def test_a_cancelled_generation(open_page: Any, keep_screenshot: Any) -> None:
    page = open_page()
    go_to(page, "Generate")
    page.locator("#g-steps textarea, #g-steps input").fill("200")
    page.locator("#g-go").click()
    page.wait_for_function("document.querySelector('#g-status').innerText.includes('step ')")
    page.locator("#g-stop").click()
    page.wait_for_function("document.querySelector('#g-status').innerText.includes('nothing is kept')")
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
    page.wait_for_function("document.querySelector('#g-status').innerText.includes('Steps is a number')")


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
    page.wait_for_function("document.querySelector('#o-message').innerText.includes('outside')")
    page.locator("#o-path textarea, #o-path input").fill("theirs")
    page.locator("#o-go").click()
    page.wait_for_function("document.querySelector('#o-message').innerText.includes('chosen in Explore')")
    go_to(page, "Explore")
    page.wait_for_selector('#plot .pt[data-key="ours/theirs"]')
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
    page.wait_for_function("document.querySelector('#o-message').innerText.includes('chosen in Explore')")
    go_to(page, "Explore")
    page.wait_for_function("document.querySelector('#verdict h3').innerText.includes('onerror')")
    assert page.title() != "hit"
    assert "{{7*7}}" in page.locator("#verdict h3").inner_text()
