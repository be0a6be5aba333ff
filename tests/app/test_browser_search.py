"""A search on the page: begun, watched, found again by a page that is loaded anew, stopped, looked at."""

from typing import Any


def test_a_search_on_the_page(open_page: Any, keep_screenshot: Any) -> None:
    page = open_page()
    page.get_by_role("tab", name="Calibrate").click()
    page.locator("#c-minutes input").fill("60")
    page.locator("#c-certify input").uncheck()
    page.get_by_text("What to choose, and how much to measure").click()
    page.locator("#c-prompts textarea, #c-prompts input").fill("1")
    page.locator("#c-start").click()
    page.wait_for_function("document.querySelector('#c-message').innerText.includes('2 to 1000')")
    page.locator("#c-prompts textarea, #c-prompts input").fill("2")
    page.locator("#c-steps textarea, #c-steps input").fill("6")
    page.locator("#c-start").click()
    page.wait_for_function("document.querySelectorAll('#c-plot .pt').length >= 4")
    keep_screenshot(page, "calibrate")

    again = open_page()
    again.get_by_role("tab", name="Calibrate").click()
    again.wait_for_function("document.querySelector('#c-status').innerText.includes('judged')")
    assert again.locator("#c-search input").input_value() == "emoji-flux"
    again.get_by_role("tab", name="Generate").click()
    again.locator("#g-go").click()
    again.wait_for_function("document.querySelector('#g-status').innerText.includes('the device is busy')")
    keep_screenshot(again, "busy")
    again.get_by_role("tab", name="Calibrate").click()
    again.locator("#c-stop").click()
    again.wait_for_function("document.querySelector('#c-status').innerText.includes('stopped')")
    again.locator("#c-look").click()
    again.get_by_role("tab", name="Explore").click()
    again.wait_for_function("document.querySelector('#verdict').innerText.includes('trajectory-')")
    assert "not certified" in again.locator("#verdict").inner_text()
