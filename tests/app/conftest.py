"""A served explorer, and a browser to look at it with; what is not installed skips what needs it, with the reason."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from explorer_pages import WAIT_MS

ROOT = Path(__file__).resolve().parents[2]
IN_A_BROWSER = {"chromium", "open_page"}
BROWSERS = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")


@pytest.hookimpl(tryfirst=True)  # before marks are asked for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever looks at a page in a browser is slow: `make browser` runs it, `make test` does not."""
    for item in items:
        if IN_A_BROWSER & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of an explorer on the embedded pipelines, and its folder: ``in/`` may be read, ``out/`` is written."""
    pytest.importorskip("gradio", reason="the extra 'app' is not installed")
    from dit_accel.app.run import launch
    from dit_accel.app.searches import searches_in
    from dit_accel.errors import ConfigError

    folder = tmp_path_factory.mktemp("explorer")
    (folder / "in").mkdir()
    for attempt in range(5):  # gradio gives up where a busy machine lets it wait for its own server
        try:
            page = launch(folder=folder / "in", output=folder / "out", device="cpu", block=False)
            break
        except ConfigError:
            if attempt == 4:
                raise
    yield page.local_url, folder
    page.close()
    for search in searches_in(folder / "out" / "calibrate"):
        if search.running:  # a test has failed before it could stop it
            os.kill(search.status().pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium: `make browser` installs it")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(served: tuple[str, Path], chromium: Any) -> Iterator[Any]:
    """Opens the explorer at a size; fails where the page had an error or asked another machine for something."""
    pages, errors, strangers = [], [], []

    def open_at(width: int = 1280, height: int = 900, *, dark: bool = False, path: str = "") -> Any:
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "request",
            lambda r: None if "127.0.0.1" in r.url or r.url[:5] in ("data:", "blob:") else strangers.append(r.url),
        )
        page.goto(served[0] + path + ("?__theme=dark" if dark else "?__theme=light"))
        page.wait_for_selector("#plot svg.front")
        pages.append(page)
        return page

    yield open_at
    for page in pages:
        page.close()
    assert errors == [] and strangers == []


@pytest.fixture
def keep_screenshot() -> Any:
    """Writes a picture of a page for ``docs/`` where ``DIT_ACCEL_SCREENSHOTS`` names a folder; else does nothing."""
    folder = os.environ.get("DIT_ACCEL_SCREENSHOTS")

    def keep(page: Any, name: str, *, full: bool = False) -> None:
        if folder:
            page.screenshot(path=str(Path(folder) / f"explorer-{name}.png"), full_page=full)

    return keep
