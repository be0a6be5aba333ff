"""A search on the page: begun, watched, found again by a page that is loaded anew, stopped, looked at."""

from typing import Any

from explorer_pages import go_to, says


def test_a_search_on_the_page(open_page: Any, keep_screenshot: Any) -> None:
    page = open_page()
    go_to(page, "Calibrate")
    page.locator("#c-minutes input").fill("60")
    page.locator("#c-certify input").uncheck()
    page.get_by_text("What to choose, and how much to measure").click()
    page.locator("#c-prompts textarea, #c-prompts input").fill("1")
    page.locator("#c-start").click()
    says(page, "#c-message", "2 to 1000")
    page.locator("#c-prompts textarea, #c-prompts input").fill("2")
    page.locator("#c-steps textarea, #c-steps input").fill("12")
    page.locator("#c-start").click()
    page.wait_for_function("document.querySelectorAll('#c-plot .pt').length >= 4")
    keep_screenshot(page, "calibrate")

    again = open_page()
    go_to(again, "Calibrate")
    says(again, "#c-status", "judged")
    assert again.locator("#c-search input").input_value() == "emoji-flux"
    go_to(again, "Generate")
    again.locator("#g-go").click()
    says(again, "#g-status", "the device is busy")
    keep_screenshot(again, "busy")
    go_to(again, "Calibrate")
    again.locator("#c-stop").click()
    says(again, "#c-status", "stopped")
    again.locator("#c-look").click()
    says(again, "#verdict", "trajectory-")
    assert "not certified" in again.locator("#verdict").inner_text()
