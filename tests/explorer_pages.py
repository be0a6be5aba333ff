"""What the browser tests do on a page of the explorer, and read from it."""

import shutil
from pathlib import Path
from typing import Any

WAIT_MS = 120_000  # of a machine that is busy with other things


def go_to(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def rows(page: Any) -> Any:
    """Those of the table that are drawn."""
    return page.locator("#table [role=row][data-index]")


def wait_for(page: Any, key: str) -> None:
    page.wait_for_selector(f'#plot .pt.chosen[data-key="{key}"]')


def wait_for_pictures(page: Any) -> None:
    """Until the first drawing is over, so that nothing moves any more."""
    page.wait_for_selector("#thumbs img")
    page.wait_for_function("!document.querySelector('#drawing .note') && !document.querySelector('#halt')")


def says(page: Any, selector: str, words: str, *, patience: int = 1) -> None:
    """Wait until a part of the page says these words, so many times as long as for other things."""
    page.wait_for_function(
        "([selector, words]) => document.querySelector(selector)?.innerText.includes(words)",
        arg=[selector, words],
        timeout=patience * WAIT_MS,
    )


def agree(page: Any, key: str, label: str) -> None:
    """Plot, heading, table, code and dials say the same."""
    wait_for(page, key)
    page.wait_for_timeout(300)
    heading = page.locator("#verdict h3").inner_text().split("\n")[0]
    assert heading.split(" ✓")[0].split(" !")[0].strip() == label
    marked = rows(page).filter(has_text="●").first.locator("[role=gridcell]").nth(1)
    assert marked.inner_text().strip() == label
    assert f'"{label}")' in page.locator("#code").inner_text()
    x = float(page.locator("#plot .pt.chosen").get_attribute("data-x"))
    assert abs(float(page.locator("#time .dial").get_attribute("data-value")) - x) < 1e-9


def type_limit(page: Any, dial: str, value: str) -> None:
    """Type into a dial."""
    field = page.locator(f'#{dial} input[type="number"]')
    field.fill(value)
    field.press("Enter")
    field.blur()


def choose_model(page: Any, model: str, selector: str = "#model") -> None:
    page.locator(f"{selector} input").click()
    page.get_by_role("option", name=model, exact=True).click()


def brush(page: Any, low: float, high: float) -> None:
    """Drag across a range of times, seconds."""
    svg = page.locator("#plot svg")
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    data = {name: float(svg.get_attribute(f"data-{name}")) for name in ("x0", "x1", "low", "high")}
    scale = box["width"] / 640

    def left(value: float) -> float:
        share = (value - data["low"]) / (data["high"] - data["low"])
        return float(box["x"] + scale * (data["x0"] + share * (data["x1"] - data["x0"])))

    y = box["y"] + scale * 90
    page.mouse.move(left(low), y)
    page.mouse.down()
    page.mouse.move(left((low + high) / 2), y)
    page.mouse.move(left(high), y)
    page.mouse.up()


def forget_pictures(folder: Path) -> None:
    """Of a served explorer: all will have to be drawn again."""
    shutil.rmtree(folder / "out" / "app" / "pictures", ignore_errors=True)
